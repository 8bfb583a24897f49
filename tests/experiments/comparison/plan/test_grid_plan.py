from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, LlamaConfig

from secura.errors import ConfigError
from secura.experiments.comparison.grid.grid_run import GridRun
from secura.experiments.comparison.plan.gpus import GPUS
from secura.experiments.comparison.plan.grid_plan import plan_runs, runs_of_files
from secura.experiments.comparison.plan.memory_estimate import estimate_memory
from secura.experiments.comparison.plan.meta_model import count_step, decoder_layers, model_on_meta
from secura.experiments.comparison.plan.model_configs import Backbone, backbones, config_of_model
from secura.experiments.methods.adapters import attach_adapter

SIZES = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
BATCH, TOKENS = 3, 33


@pytest.mark.parametrize("backbone", backbones(), ids=lambda backbone: backbone.ids[0])
def test_a_backbone_has_as_many_weights_as_its_publisher_says(backbone: Backbone) -> None:
    model = model_on_meta(backbone.config, "full", {}, torch.bfloat16)
    assert sum(weight.numel() for weight in model.parameters()) == backbone.weights


def test_counting_leaves_the_config_and_its_attention_as_they_were() -> None:
    config = LlamaConfig(**SIZES)
    before = config.to_dict()
    model_on_meta(config, "lora", {"r": 8}, torch.bfloat16)
    assert config.to_dict() == before
    assert AutoModelForCausalLM.from_config(config).config._attn_implementation == "sdpa"


def test_a_model_whose_sizes_are_not_known_is_refused_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match="google/gemma-2-2b"):
        config_of_model("./no/such/model")


@pytest.mark.parametrize("method", ["secura", "secura-paper", "cabr-lora", "cur-lora", "bounded-lora", "lora", "dora"])
def test_as_many_weights_are_trained_on_the_meta_device_as_in_memory(method: str) -> None:
    config, adapter = LlamaConfig(**SIZES), {"r": 8, "target_modules": ["q_proj", "v_proj"]}
    real = attach_adapter(AutoModelForCausalLM.from_config(config), method, adapter)  # type: ignore[arg-type]
    meta = model_on_meta(config, method, adapter, torch.float32)  # type: ignore[arg-type]
    assert [(name, weight.shape, weight.dtype) for name, weight in meta.named_parameters() if weight.requires_grad] == [
        (name, weight.shape, weight.dtype) for name, weight in real.named_parameters() if weight.requires_grad
    ]


def test_weights_gradients_and_moments_are_exactly_what_a_real_step_holds() -> None:
    config, adapter = LlamaConfig(**SIZES), {"r": 8}
    real = attach_adapter(AutoModelForCausalLM.from_config(config), "secura", adapter)
    optimizer = torch.optim.AdamW(weight for weight in real.parameters() if weight.requires_grad)
    rows = torch.randint(0, 96, (2, 5), generator=torch.Generator().manual_seed(0))
    real(input_ids=rows, labels=rows).loss.backward()
    optimizer.step()
    trained = [weight for weight in real.parameters() if weight.requires_grad]
    moments = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    meta = model_on_meta(config, "secura", adapter, torch.float32)
    step = count_step(meta, batch=2, tokens=5)
    sizes = {"batch": 2, "tokens": 5, "hidden": 64, "vocabulary": 96, "computed_in": torch.float32}
    memory = estimate_memory(meta, step, checkpointing=False, folds=False, **sizes)  # type: ignore[arg-type]
    assert memory.weights == _bytes([*real.parameters(), *real.buffers()])
    assert memory.gradients == _bytes([weight.grad for weight in trained if weight.grad is not None])
    assert memory.optimizer == _bytes(moments)


@pytest.mark.parametrize("method", ["secura", "cabr-lora", "lora", "full"])
def test_activations_agree_with_what_autograd_saves_on_a_cpu(method: str) -> None:
    config, adapter = LlamaConfig(**SIZES), {} if method == "full" else {"r": 8}
    real = attach_adapter(AutoModelForCausalLM.from_config(config), method, adapter).train()  # type: ignore[arg-type]
    saved = _saved_on_a_cpu(real)
    step = count_step(model_on_meta(config, method, adapter, torch.float32), batch=BATCH, tokens=TOKENS)  # type: ignore[arg-type]
    # The estimate repeats keys and values for grouped heads; a CPU without padding need not.
    assert saved <= step.saved_in_layers + step.saved_elsewhere <= 1.15 * saved


def test_checkpointing_keeps_the_input_of_each_layer_and_one_layer_in_full() -> None:
    model = model_on_meta(LlamaConfig(**SIZES), "lora", {"r": 8}, torch.float32)
    step = count_step(model, batch=BATCH, tokens=TOKENS)
    sizes = {"batch": BATCH, "tokens": TOKENS, "hidden": 64, "vocabulary": 96, "computed_in": torch.float32}
    kept = estimate_memory(model, step, checkpointing=True, folds=False, **sizes).activations  # type: ignore[arg-type]
    assert kept == step.saved_elsewhere + 3 * BATCH * TOKENS * 64 * 4 + step.saved_in_layers // 3
    assert len(decoder_layers(model)) == step.layers == 3


def test_mixed_precision_keeps_a_copy_of_each_frozen_matrix_for_the_backward_pass() -> None:
    config, adapter = LlamaConfig(**SIZES), {"r": 8}
    held = model_on_meta(config, "lora", adapter, torch.float32)
    step = count_step(model_on_meta(config, "lora", adapter, torch.bfloat16), batch=BATCH, tokens=TOKENS)
    sizes = {"batch": BATCH, "tokens": TOKENS, "hidden": 64, "vocabulary": 96, "computed_in": torch.bfloat16}
    memory = estimate_memory(held, step, checkpointing=False, folds=False, **sizes)  # type: ignore[arg-type]
    real = attach_adapter(AutoModelForCausalLM.from_config(config), "lora", adapter).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        saved = _saved_on_a_cpu(real)
    # A little is in float32 under autocast that is in bfloat16 without it: norms, and sums with them.
    assert 0.8 * saved <= memory.activations + memory.copies <= 1.25 * saved


def test_a_step_of_the_whole_model_takes_six_operations_a_weight_and_token_besides_attention() -> None:
    config = LlamaConfig(**SIZES, tie_word_embeddings=False)
    step = count_step(model_on_meta(config, "full", {}, torch.float32), batch=BATCH, tokens=TOKENS)
    multiplied = 3 * (64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 112) + 64 * 96
    attention = 3 * 2 * 2 * BATCH * TOKENS * TOKENS * 64  # layers × (scores and values) × 2
    assert step.forward_flops == 2 * multiplied * BATCH * TOKENS + attention
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


def test_hours_follow_from_the_peak_and_the_stated_share_of_it() -> None:
    a100 = GPUS[0]
    assert_close(a100.hours(312e12 * 0.35 * 3600), 1.0)


def test_the_paper_on_llama_3_trains_what_its_formula_says(tmp_path: Path) -> None:
    (row,) = plan_runs(_runs(tmp_path, "meta-llama/Meta-Llama-3-8B", "secura-paper", "{r: 150, inner_r: 200}")).rows
    assert row.largest.trained_weights == 2 * 150 * 200 * 2 * 32  # 2 r k for each of q and v in 32 layers
    assert (row.runs, row.steps) == (2, 2 * 40)
    assert 16.06e9 < row.largest.memory.weights < 16.10e9  # 8.03 G weights in bfloat16, and the adapter
    moved = 32 * (4096 * 4096 + 1024 * 4096) * 4
    assert row.largest.memory.references == moved


def test_rows_add_up_to_the_plan_and_unknown_steps_stay_unknown(tmp_path: Path) -> None:
    runs = _runs(tmp_path, "bundled", "lora", "{}")
    whole = plan_runs(runs)
    assert (whole.runs, whole.steps) == (2, 80)
    assert whole.flops == pytest.approx(80 * whole.rows[0].largest.flops_per_step)
    some = plan_runs([*runs, _without_steps(runs[0])])
    assert (some.runs, some.steps, some.flops) == (3, None, None)
    assert any("set training.steps" in note for note in some.notes)


def test_a_rank_that_is_too_large_is_refused_by_the_name_of_the_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cabr-lora on Qwen/Qwen2-1.5B: r is 300, but layer .*v_proj is 256 × 1536"):
        plan_runs(_runs(tmp_path, "Qwen/Qwen2-1.5B", "cabr-lora", "{r: 300, inner_r: 300}"))


def _runs(folder: Path, model: str, method: str, adapter: str) -> list[GridRun]:
    file = folder / "grid.yaml"
    file.write_text(
        f"name: small\nbase: {{training: {{steps: 40, batch_size: 2}}, data: {{max_length: 16}}}}\n"
        f"methods: [{{name: {method}, settings: {{method.adapter: {adapter}}}}}]\n"
        f"models: [{model}]\ntasks: [own_things]\nseeds: [0, 1]\n"
    )
    return runs_of_files([file])


def _without_steps(run: GridRun) -> GridRun:
    return replace(run, settings={**run.settings, "training": {**run.settings["training"], "steps": None}})


def _saved_on_a_cpu(model: torch.nn.Module) -> int:
    own = {each.untyped_storage().data_ptr() for each in (*model.parameters(), *model.buffers())}
    sizes: dict[int, int] = {}
    kept = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept.append(tensor)
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    rows = torch.randint(0, 96, (BATCH, TOKENS), generator=torch.Generator().manual_seed(0))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(input_ids=rows, labels=rows, use_cache=False)
    return sum(sizes.values())


def _bytes(tensors: list[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
