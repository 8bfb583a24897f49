import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from exported_models import tuned
from safetensors.torch import load_file, save_file

from secura.cli.app import DONE, FAILED, run


def test_it_says_what_is_installed_and_what_extras_would_enable(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor"]) == DONE
    shown = capsys.readouterr().out
    assert f"torch: {torch.__version__}" in shown
    for extra in ("trl", "lm-eval", "llama-cpp", "quantized"):
        assert f"secura[{extra}]: " in shown
    assert "vllm: " in shown
    assert "llama-quantize: " in shown


def test_a_whole_adapter_is_told_by_its_kind_and_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tuned("llama").save_pretrained(str(tmp_path / "adapter"))
    assert run(["doctor", str(tmp_path)]) == DONE  # the folder of a run holds it as adapter/
    assert "whole: SECURA on" in capsys.readouterr().out


def cut_short(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def no_weights(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()


def no_config(folder: Path) -> None:
    (folder / "adapter_config.json").unlink()


def broken_config(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{")


def nan(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    tensors = load_file(str(file))
    name = next(name for name in tensors if ".secura_change." in name)
    tensors[name][0] = float("nan")
    save_file(tensors, str(file))


def a_layer_short(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    tensors = load_file(str(file))
    save_file({name: tensor for name, tensor in tensors.items() if "layers.1.mlp" not in name}, str(file))


def other_indices(folder: Path) -> None:
    config = json.loads((folder / "adapter_config.json").read_text())
    layer = next(iter(config["saved"]["layers"].values()))
    layer["rows"] = " ".join(reversed(layer["rows"].split()))
    (folder / "adapter_config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (cut_short, "is damaged, perhaps cut short"),
        (no_weights, "adapter_model.safetensors is missing"),
        (no_config, "adapter_config.json is missing"),
        (broken_config, "adapter_config.json is not JSON"),
        (nan, "holds NaN or infinity"),
        (a_layer_short, "has no trained factors"),
        (other_indices, "of different adapters"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    damage: Callable[[Path], None], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned("llama").save_pretrained(str(tmp_path / "adapter"))
    damage(tmp_path / "adapter")
    assert run(["doctor", str(tmp_path / "adapter")]) == FAILED
    shown = capsys.readouterr().out
    assert says in shown
    assert shown.count("\n") == 1
