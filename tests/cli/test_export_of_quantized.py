import json
from pathlib import Path

import pytest
import torch
from adapted_models import adapted, logits
from exported_models import base_of, prompts
from peft import PeftModel
from quantized_models import METHOD, Int8Linear, store_quantized, teach_peft
from tiny_models import tiny_tokenizer
from torch.testing import assert_close
from transformers import AutoModelForCausalLM

from secura import SecuraConfig
from secura.cli.app import DONE, USAGE, run
from secura.evaluation.llama_cpp import llama_cpp_is_installed

IDS = torch.tensor(prompts(1))


@pytest.fixture
def quantized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base that is stored quantized, and an adapter that was trained on it."""
    monkeypatch.setenv("SECURA_CACHE", str(tmp_path / "cache"))
    teach_peft(monkeypatch)
    base_of("llama").save_pretrained(tmp_path / "base")
    tiny_tokenizer(chat=True).save_pretrained(tmp_path / "base")
    store_quantized(tmp_path / "base")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    assert isinstance(loaded.model.layers[0].self_attn.q_proj, Int8Linear)
    config = SecuraConfig(r=4, target_modules=["q_proj", "down_proj"], norm="none", task_type="CAUSAL_LM")
    adapted(loaded, config).save_pretrained(str(tmp_path / "adapter"))
    return tmp_path


def as_tested(folder: Path) -> torch.Tensor:
    base = AutoModelForCausalLM.from_pretrained(folder / "base")
    return logits(PeftModel.from_pretrained(base, folder / "adapter").eval(), IDS)


@pytest.mark.parametrize("form", ["merged", "gguf"])
def test_a_quantized_base_is_refused_before_it_is_loaded(
    form: str, quantized: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("it was loaded"))
    assert run(["export", str(quantized / "adapter"), "--to", form, "--base", str(quantized / "base")]) == USAGE
    said = capsys.readouterr().err
    assert f"stored quantized ({METHOD})" in said
    assert "--dequantize" in said


def test_asked_for_it_is_written_out_plainly_and_what_that_costs_is_said(
    quantized: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["export", str(quantized / "adapter"), "--to", "merged", "--base", str(quantized / "base"), "--dequantize"]
    assert run(asked) == DONE
    said = " ".join(capsys.readouterr().out.split())
    assert f"stored by {METHOD}" in said
    assert "times as large" in said
    assert "answers as the quantized base does" in said
    folder = quantized / "adapter-merged"
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    record = json.loads((folder / "export.json").read_text())["dequantized"]
    assert record["method"] == METHOD
    assert record["plain_bytes"] > 1.2 * record["stored_bytes"]
    assert "its rounding stays" in (folder / "README.md").read_text()
    assert_close(logits(AutoModelForCausalLM.from_pretrained(folder), IDS), as_tested(quantized), rtol=1e-4, atol=1e-4)
    few = ["--questions", "kinds", "--prompts", "3", "--max-tokens", "4", "--count", "2", "--no-vllm"]
    assert run(["verify-export", str(quantized / "base"), str(quantized / "adapter"), str(folder), *few]) == DONE


def test_a_lora_holds_nothing_of_the_base_and_is_written_without_being_asked_twice(quantized: Path) -> None:
    asked = ["export", str(quantized / "adapter"), "--base", str(quantized / "base")]
    assert run([*asked, "--to", "lora"]) == DONE
    assert json.loads((quantized / "adapter-lora" / "export.json").read_text())["exact"]
    assert run([*asked, "--to", "lora", "--dequantize"]) == USAGE


@pytest.mark.slow
@pytest.mark.skipif(not llama_cpp_is_installed(), reason="xllamacpp is not installed")
def test_a_gguf_of_it_passes_as_well(quantized: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["export", str(quantized / "adapter"), "--to", "gguf", "--base", str(quantized / "base"), "--dequantize"]
    assert run([*asked, "--dtype", "float32"]) == DONE
    few = ["--questions", "kinds", "--prompts", "3", "--max-tokens", "4", "--count", "2"]
    export = quantized / "adapter-gguf"
    assert run(["verify-export", str(quantized / "base"), str(quantized / "adapter"), str(export), *few]) == DONE
