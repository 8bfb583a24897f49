import json
from pathlib import Path

import pytest
import torch
from adapted_models import logits
from exported_models import prompts, tuned
from huggingface_hub import ModelCard
from tiny_models import save_tiny_model, tiny_tokenizer
from torch.testing import assert_close
from transformers import AutoModelForCausalLM

from secura.adapters.dial import scaled
from secura.cli.app import DONE, FAILED, USAGE, run
from secura.evaluation.llama_cpp import llama_cpp_is_installed
from secura.export.llama_quantize import quantizer


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


def test_the_bundled_model_leaves_by_its_name_so_that_a_lora_of_gguf_has_a_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["export", "bundled", "--to", "gguf"]) == DONE
    assert (tmp_path / "runs" / "bundled-gguf" / "model.gguf").is_file()


@pytest.mark.parametrize("norm", ["none", "bounded"])
def test_a_scale_is_the_point_of_the_dial(norm: str, adapters: Path) -> None:
    asked = ["export", str(adapters / norm), "--to", "merged", "--base", str(adapters / "base"), "--scale", "0.5"]
    assert run(asked) == DONE
    model = tuned("llama", norm=norm)
    ids = torch.tensor(prompts(1))
    with scaled(model, 0.5, merged=True):
        expected = logits(model, ids)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(adapters / f"{norm}-merged"), ids), expected)
    card = (adapters / f"{norm}-merged" / "README.md").read_text()
    assert "at 0.5 of what was learned" in card
    few = ["--questions", "kinds", "--prompts", "2", "--max-tokens", "4", "--count", "2", "--no-vllm"]
    export = adapters / f"{norm}-merged"
    assert run(["verify-export", str(adapters / "base"), str(adapters / norm), str(export), *few]) == DONE


def test_scores_are_shown_at_a_point_of_the_dial_too(adapters: Path) -> None:
    asked = ["export", str(adapters / "bounded"), "--to", "lora", "--base", str(adapters / "base"), "--rank", "1"]
    asked += ["--questions", "kinds", "--count", "2", "--accept-loss"]
    assert run([*asked, "--scale", "0.01"]) == DONE
    record = json.loads((adapters / "bounded-lora" / "export.json").read_text())
    assert record["scale"] == 0.01
    assert [score["task"] for score in record["scores"]] == ["kinds"]


def test_a_whole_model_at_a_point_lies_between_it_and_its_base(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bases = [save_tiny_model(tmp_path / name, seed=seed) for seed, name in enumerate(("base", "tuned"))]
    asked = ["export", str(tmp_path / "tuned"), "--to", "merged", "--scale", "0.25", "--out", str(tmp_path / "out")]
    assert run(asked) == USAGE
    assert "does not say which base it was made of" in capsys.readouterr().err
    assert run([*asked, "--base", str(tmp_path / "base")]) == DONE
    base, whole, quarter = (AutoModelForCausalLM.from_pretrained(each) for each in (*bases, tmp_path / "out"))
    name = "model.layers.0.mlp.up_proj.weight"
    before, after = base.get_parameter(name), whole.get_parameter(name)
    assert_close(quarter.get_parameter(name), before + 0.25 * (after - before))
    few = ["--questions", "kinds", "--prompts", "2", "--max-tokens", "4", "--count", "2", "--no-vllm"]
    assert run(["verify-export", str(bases[0]), str(bases[1]), str(tmp_path / "out"), *few]) == DONE


@pytest.mark.slow
@pytest.mark.skipif(quantizer() is None, reason="llama.cpp's quantizer is not installed")
@pytest.mark.skipif(not llama_cpp_is_installed(), reason="xllamacpp is not installed")
@pytest.mark.parametrize("kind", ["q4_k_m", "q6_k"])
def test_a_kind_that_the_quantizer_writes_is_verified(kind: str, adapters: Path) -> None:
    asked = ["export", str(adapters / "none"), "--to", "gguf", "--base", str(adapters / "base"), "--quantize", kind]
    assert run(asked) == DONE
    folder = adapters / "none-gguf"
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "export.json", "model.gguf"]
    few = ["--questions", "kinds", "--prompts", "3", "--max-tokens", "4", "--count", "2"]
    assert run(["verify-export", str(adapters / "base"), str(adapters / "none"), str(folder), *few]) == DONE
    assert json.loads((folder / "verification.json").read_text())["stored_as"] == kind


def test_a_quantizer_that_fails_leaves_nothing_and_is_quoted(
    adapters: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    program = adapters / "bin" / "llama-quantize"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho one\necho 'main: failed to quantize' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    asked = ["export", str(adapters / "none"), "--to", "gguf", "--base", str(adapters / "base")]
    assert run([*asked, "--quantize", "q4_k_m"]) == FAILED
    assert "llama-quantize ended with code 1 and said: main: failed to quantize" in capsys.readouterr().err
    assert not (adapters / "none-gguf").exists()
    program.unlink()
    (adapters / "bin" / "llama_cpp.py").write_text("raise RuntimeError('no shared library')\n")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("PYTHONPATH", str(program.parent))
    monkeypatch.syspath_prepend(program.parent)
    assert run([*asked, "--quantize", "q4_k_m"]) == FAILED
    assert "llama-cpp-python ended with code 1 and said: RuntimeError: no shared library" in capsys.readouterr().err
    assert not (adapters / "none-gguf").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["none", "--to", "onnx"], "known: lora, merged, gguf, gguf-lora, ollama"),
        (["none", "--to", "merged", "--quantize", "q8_0"], "--quantize is for --to gguf"),
        (["none", "--to", "gguf", "--quantize", "q4_k_m"], "llama-quantize, which is not on the PATH"),
        (["none", "--to", "gguf", "--quantize", "q9"], "known: f32, f16, bf16, q8_0, q5_1, q4_0, q3_k_m, q4_k_s"),
        (["none", "--to", "merged", "--scale", "-1"], "--scale is -1"),
        (["base", "--to", "merged", "--scale", "0.5", "--base", "none"], "holds an adapter"),
        (["base", "--to", "lora"], "whole model"),
        (["none", "--to", "merged", "--tasks", "a"], "never folded; folded: none"),
        (["none", "--to", "merged", "--out", "base"], "holds something that is not an export"),
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
    monkeypatch.setattr("secura.export.llama_quantize.quantizer", lambda: None)
    before = sorted(adapters.iterdir())
    assert run(["export", "--base", "base", *arguments]) == USAGE
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.err.count("\n") == 1
    assert sorted(adapters.iterdir()) == before
