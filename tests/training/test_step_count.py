from typing import Any

import pytest
import torch
from oldest_versions import OLD_TORCH
from saved_by_autograd import saved_on_a_cpu
from transformers import AutoModelForCausalLM, Gemma2Config, GPT2Config, LlamaConfig, PretrainedConfig

from secura.experiments.comparison.plan import meta_model
from secura.experiments.comparison.plan.memory_estimate import Folding, estimate_memory
from secura.experiments.comparison.plan.meta_model import model_on_meta
from secura.experiments.methods.adapters import attach_adapter
from secura.training import step_count
from secura.training.meta_layers import all_weights
from secura.training.step_count import count_step

SIZES = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
ONE_LAYER = {"r": 8, "target_modules": ["q_proj"], "layers_to_transform": [2]}
BATCH, TOKENS = 3, 33


@pytest.mark.ci
@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**SIZES),
        Gemma2Config(**SIZES, head_dim=16),
        GPT2Config(vocab_size=96, n_embd=64, n_layer=5, n_head=4, bos_token_id=1, eos_token_id=2),
    ],
    ids=lambda config: config.model_type,
)
@pytest.mark.parametrize(
    ("method", "adapter"),
    [
        ("full", {}),
        ("lora", {"r": 8}),
        ("dora", {"r": 3}),
        ("secura", {"r": 8, "target_modules": "all-linear"}),
        ("lora", ONE_LAYER),
    ],
)
def test_layers_that_stand_for_others_count_as_if_each_took_the_step_itself(
    config: PretrainedConfig, method: Any, adapter: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if adapter is ONE_LAYER and config.model_type == "gpt2":
        adapter = {"r": 8, "target_modules": ["c_attn"], "layers_to_transform": [2]}
    quick = _counted(config, method, adapter)
    monkeypatch.setattr(meta_model, "_is_same_in_every_layer", lambda adapter: False)
    monkeypatch.setattr(step_count, "signature", id)
    assert quick == _counted(config, method, adapter)


def _counted(config: PretrainedConfig, method: Any, adapter: dict[str, Any]) -> tuple[Any, ...]:
    model = model_on_meta(config, method, adapter, torch.float32)
    step = count_step(model, batch=BATCH, tokens=TOKENS)
    sizes: dict[str, Any] = {"batch": BATCH, "tokens": TOKENS, "hidden": 64, "vocabulary": 96, "folding": Folding()}
    memory = estimate_memory(model, step, computed_in=torch.bfloat16, checkpointing=True, **sizes)
    return step, memory, sum(weight.numel() for weight in all_weights(model))


def test_a_deep_model_takes_no_more_layer_steps_than_a_shallow_one(monkeypatch: pytest.MonkeyPatch) -> None:
    stepped = []
    own = step_count._Counts.go_on_with

    def noted(counts: Any, kind: Any, direction: str) -> None:
        stepped.append(kind)
        own(counts, kind, direction)

    monkeypatch.setattr(step_count._Counts, "go_on_with", noted)
    lengths = []
    for layers in (4, 40):
        stepped.clear()
        model = model_on_meta(LlamaConfig(**{**SIZES, "num_hidden_layers": layers}), "lora", {"r": 8}, torch.float32)
        count_step(model, batch=2, tokens=5)
        lengths.append(len(stepped))
    assert lengths[0] == lengths[1]


@pytest.mark.ci
@pytest.mark.skipif(OLD_TORCH, reason="torch 2.6 repeats keys and values for grouped heads on a CPU itself")
@pytest.mark.parametrize("method", ["secura", "cabr-lora", "lora", "full"])
def test_activations_agree_with_what_autograd_saves_on_a_cpu(method: str) -> None:
    config, adapter = LlamaConfig(**SIZES), {} if method == "full" else {"r": 8}
    real = attach_adapter(AutoModelForCausalLM.from_config(config), method, adapter).train()  # type: ignore[arg-type]
    saved = saved_on_a_cpu(real, batch=BATCH, tokens=TOKENS)
    step = count_step(model_on_meta(config, method, adapter, torch.float32), batch=BATCH, tokens=TOKENS)  # type: ignore[arg-type]
    # The estimate repeats keys and values for grouped heads; a CPU without padding need not.
    assert saved <= step.saved_in_layers + step.saved_elsewhere <= 1.15 * saved


def test_a_step_of_the_whole_model_takes_six_operations_a_weight_and_token_besides_attention() -> None:
    config = LlamaConfig(**SIZES, tie_word_embeddings=False)
    step = count_step(model_on_meta(config, "full", {}, torch.float32), batch=BATCH, tokens=TOKENS)
    multiplied = 5 * (64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 112) + 64 * 96
    attention = 5 * 2 * 2 * BATCH * TOKENS * TOKENS * 64  # layers × (scores and values) × 2
    assert step.forward_flops == pytest.approx(
        2 * multiplied * BATCH * TOKENS + attention, rel=1e-4
    )  # angles of positions
    assert step.backward_flops >= 4 * multiplied * BATCH * TOKENS + 2 * attention - 2 * 64 * 64 * BATCH * TOKENS
    assert step.backward_flops <= 1.05 * (4 * multiplied * BATCH * TOKENS + 2.5 * attention)


def test_a_frozen_weight_costs_a_third_less_than_a_trained_one() -> None:
    full, lora = (
        count_step(model_on_meta(LlamaConfig(**SIZES), method, adapter, torch.float32), batch=2, tokens=16)  # type: ignore[arg-type]
        for method, adapter in (("full", {}), ("lora", {"r": 1}))
    )
    assert (lora.forward_flops + lora.backward_flops) / (full.forward_flops + full.backward_flops) == pytest.approx(
        2 / 3, abs=0.05
    )
