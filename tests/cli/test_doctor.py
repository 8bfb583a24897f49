import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from exported_models import tuned
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_models import tiny_model

from secura.cli.app import DONE, FAILED, USAGE, run
from secura.training.checkpoint_seal import seal, seal_holds


def test_it_says_what_is_installed_and_what_extras_would_enable(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor"]) == DONE
    shown = capsys.readouterr().out
    assert f"torch: {torch.__version__}" in shown
    for extra in ("trl", "lm-eval", "llama-cpp", "studio", "quantized"):
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


def changed(**settings: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**config, **settings}))

    return change


def nested_deeply(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("[" * 100_000)


def a_pickle(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def a_pipe(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()
    os.mkfifo(folder / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (nested_deeply, "adapter_config.json is not JSON: Nested too deeply"),
        (a_pickle, "adapter_model.bin is a pickle, which secura does not read"),
        (a_pipe, "adapter_model.safetensors is not a file"),
        (changed(peft_type=["LORA"]), "peft_type is \"['LORA']\", which PEFT does not know"),
        (changed(peft_type="SOMETHING"), "peft_type is 'SOMETHING', which PEFT does not know"),
        (changed(peft_type="LORA"), "says that the adapter is LORA, but adapter_model.safetensors holds tensors of"),
        (changed(saved=3), "saved in adapter_config.json is 3, not an object"),
        (changed(saved=None), "the seal was taken out of adapter_config.json"),
        (changed(saved={"layers": {"a": 3}}), "saved.layers['a'] in adapter_config.json is 3, not an object"),
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


def without_a_seal(folder: Path) -> None:
    file, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    tensors = load_file(str(file))
    save_file({name: each for name, each in tensors.items() if not name.endswith(("_seal", "_base"))}, str(file))
    content = json.loads(config.read_text())
    del content["saved"]["seal"], content["saved"]["base"]
    config.write_text(json.dumps(content))


@pytest.mark.parametrize("lost", ["q_proj.lora_A", "v_proj.lora_B"])
def test_a_lora_that_lacks_a_factor_is_not_whole(lost: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = get_peft_model(tiny_model("llama"), LoraConfig(target_modules=["q_proj", "v_proj"]))
    model.save_pretrained(str(tmp_path))
    assert run(["doctor", str(tmp_path)]) == DONE
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(str(file))
    save_file({name: tensor for name, tensor in tensors.items() if lost not in name}, str(file))
    capsys.readouterr()
    assert run(["doctor", str(tmp_path)]) == FAILED
    said = capsys.readouterr().out
    assert f"but not base_model.model.model.layers.0.self_attn.{lost}.weight; copy it again" in " ".join(said.split())


def test_an_older_adapter_is_sealed_once_nothing_is_wrong_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "adapter"
    tuned("llama").save_pretrained(str(folder))
    without_a_seal(folder)
    for arguments, says in (
        ([], "it has no seal, and `secura doctor --seal` gives it one"),
        (["--seal"], "its files agree, and it is sealed now"),
        ([], "as it was sealed"),
        (["--seal"], "as it was sealed"),
    ):
        assert run(["doctor", str(tmp_path), *arguments]) == DONE
        assert says in capsys.readouterr().out


def test_an_adapter_that_is_not_what_was_sealed_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "adapter"
    tuned("llama").save_pretrained(str(folder))
    config = json.loads((folder / "adapter_config.json").read_text())
    config["tau"] = 0.9
    (folder / "adapter_config.json").write_text(json.dumps(config))
    assert run(["doctor", str(folder)]) == FAILED
    assert "says tau is 0.9" in capsys.readouterr().out


def test_an_adapter_in_a_folder_with_checksums_is_not_sealed_in_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned("llama").save_pretrained(str(tmp_path / "adapter"))
    without_a_seal(tmp_path / "adapter")
    seal(tmp_path)
    assert run(["doctor", "--seal", str(tmp_path / "adapter")]) == FAILED
    assert "has its own checksums" in capsys.readouterr().out
    assert seal_holds(tmp_path)
    assert run(["doctor", "--seal"]) == USAGE
