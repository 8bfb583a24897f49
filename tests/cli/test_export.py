import json
from pathlib import Path

import pytest
from exported_models import tuned
from huggingface_hub import ModelCard
from tiny_models import save_tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM

from secura.cli.app import DONE, USAGE, run


@pytest.fixture
def adapters(tmp_path: Path) -> Path:
    """A base, an adapter without a norm and one with, as any user of PEFT may have them."""
    tuned("llama").unload().save_pretrained(tmp_path / "base")  # type: ignore[operator]
    tiny_tokenizer(chat=True).save_pretrained(tmp_path / "base")
    for norm in ("none", "bounded"):
        tuned("llama", norm=norm).save_pretrained(str(tmp_path / norm))
    return tmp_path


def test_each_form_is_written_with_a_card_and_a_record(adapters: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {
        "lora": "adapter_model.safetensors",
        "merged": "model.safetensors",
        "gguf": "model.gguf",
        "gguf-lora": "lora.gguf",
        "ollama": "Modelfile",
    }
    for form, file in files.items():
        assert run(["export", str(adapters / "none"), "--to", form, "--base", str(adapters / "base")]) == DONE
        folder = adapters / f"none-{form}"
        assert f"{form}: {folder}" in capsys.readouterr().out.replace("\n", "")
        assert (folder / file).is_file()
        record = json.loads((folder / "export.json").read_text())
        assert (record["form"], record["base"], record["method"]) == (form, str(adapters / "base"), "SECURA")
        card = ModelCard.load(folder / "README.md")
        assert card.data.tags == ["secura", form]
        assert str(adapters) not in card.content


def test_a_lora_that_loses_too_much_is_refused_until_it_is_asked_for_twice(
    adapters: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["export", str(adapters / "bounded"), "--to", "lora", "--base", str(adapters / "base"), "--rank", "1"]
    asked += ["--questions", "kinds", "--count", "1"]
    assert run(asked) == USAGE
    captured = capsys.readouterr()
    assert "loses" in captured.err
    assert "--accept-loss" in captured.err
    assert "change lost" in captured.out
    assert "kinds" in captured.out
    assert not (adapters / "bounded-lora").exists()
    assert run([*asked, "--accept-loss"]) == DONE
    record = json.loads((adapters / "bounded-lora" / "export.json").read_text())
    assert not record["exact"]
    assert max(layer["lost"] for layer in record["layers"]) > 0.01
    assert [score["task"] for score in record["scores"]] == ["kinds"]


def test_a_whole_model_is_written_in_another_dtype(tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "model")
    out = tmp_path / "half"
    assert run(["export", str(tmp_path / "model"), "--to", "merged", "--dtype", "bfloat16", "--out", str(out)]) == DONE
    assert str(AutoModelForCausalLM.from_pretrained(out).dtype) == "torch.bfloat16"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["none", "--to", "onnx"], "known: lora, merged, gguf, gguf-lora, ollama"),
        (["none", "--to", "merged", "--quantize", "q8_0"], "--quantize is for --to gguf"),
        (["none", "--to", "gguf", "--quantize", "q4_k_m"], "llama-quantize"),
        (["base", "--to", "lora"], "whole model"),
        (["none", "--to", "merged", "--tasks", "a"], "never folded; folded: none"),
        (["none", "--to", "merged", "--out", "base"], "holds something else"),
        (["nowhere/at/all", "--to", "merged"], "no such folder"),
    ],
)
def test_wrong_usage_is_exit_code_3_with_one_line(
    arguments: list[str],
    says: str,
    adapters: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(adapters)
    before = sorted(adapters.iterdir())
    assert run(["export", "--base", "base", *arguments]) == USAGE
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.err.count("\n") == 1
    assert sorted(adapters.iterdir()) == before
