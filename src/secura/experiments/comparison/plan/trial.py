"""Whether the runs of a grid would work, found out in seconds: two steps on a small model of the same architecture.

The model is the real architecture, drawn at random: its own layer class, grouped heads, tied or
untied head, rotary scaling, soft caps and sliding window. Two decoder layers, a vocabulary of
512, and every width an eighth, heads as many as there are; ranks an eighth too. Data are random
tokens, so no tokenizer is needed. The adapter and the trainer are those of a real run.

What this cannot tell: whether memory suffices (`plan` does), and whether anything is learned.
Whether the real rank fits the real layers is checked on the meta device, at full size.
"""

import copy
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel, TrainerCallback

from secura.adapters.corda import adapter_state, save_as_lora
from secura.errors import SecuraError, TrainingError
from secura.experiments.comparison.grid.grid_run import GridRun
from secura.experiments.comparison.plan.meta_model import model_on_meta
from secura.experiments.comparison.plan.model_configs import config_of_model
from secura.experiments.methods.adapters import attach_adapter, reads_texts_first
from secura.training.examples import Example
from secura.training.trainer import Precision, make_trainer

DIVISOR = 8
"""Widths and ranks of a trial are this part of the real ones."""
VOCABULARY = 512
_LAYERS = 2
_STEPS = 2
_ROWS = 4
_TOKENS = 24
_MOST_DIFFERENCE = 1e-4
"""Largest difference of a logit between the trained and the reloaded model that counts as equal. 0 for every method
but CorDA, which is saved as a LoRA for the base as it was and so rounds otherwise."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """How a method did on a small model of an architecture."""

    model: str
    """The model whose architecture it was."""
    label: str
    """The method as the grid calls it."""
    worked: bool
    """Whether all of it worked."""
    said: str
    """The losses and what else was seen, or the error."""


def small_config(config: PretrainedConfig) -> PretrainedConfig:
    """The same architecture, small enough for a CPU: what stands at the top of this module."""
    small = copy.deepcopy(config)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    small.update(
        {
            "num_hidden_layers": _LAYERS,
            "vocab_size": VOCABULARY,
            "hidden_size": config.hidden_size // DIVISOR,
            "intermediate_size": config.intermediate_size // DIVISOR,
            "head_dim": head // DIVISOR,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
            "dtype": "float32",
        }
    )
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        small.update({"layer_types": list(kinds)[:_LAYERS]})
    if getattr(config, "query_pre_attn_scalar", None):
        small.update({"query_pre_attn_scalar": config.query_pre_attn_scalar // DIVISOR})
    if getattr(config, "sliding_window", None):
        small.update({"sliding_window": _TOKENS // 2})  # so that it acts
    return small


def small_adapter(adapter: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an adapter with its ranks divided as the widths are."""
    return {
        key: max(1, math.ceil(value / DIVISOR)) if key in ("r", "inner_r") and isinstance(value, int) else value
        for key, value in adapter.items()
    }


def try_runs(runs: Sequence[GridRun]) -> Iterator[Trial]:
    """Try each method on each architecture of a grid once, and yield how it did."""
    tried = set()
    for run in runs:
        method = run.settings["method"]
        key = (run.settings["model"]["path"], method["name"], repr(method["adapter"]), method["fold_every"])
        if key in tried:
            continue
        tried.add(key)
        yield _try_run(run)


def _try_run(run: GridRun) -> Trial:
    """Try one run; an error of any kind is the answer, not the end."""
    try:
        said = _tried(run.settings)
    except Exception as problem:
        reason = " ".join(str(problem).split())[:300]
        said = reason if isinstance(problem, SecuraError) else f"{type(problem).__name__}: {reason}"
        return Trial(model=run.model, label=run.label, worked=False, said=said)
    return Trial(model=run.model, label=run.label, worked=True, said=said)


def _tried(settings: Mapping[str, Any]) -> str:
    config, method = config_of_model(settings["model"]["path"]), settings["method"]
    model_on_meta(config, method["name"], method["adapter"], torch.bfloat16)  # refuses a rank that is too large
    return try_method(
        small_config(config),
        method["name"],
        small_adapter(method["adapter"]),
        fold_every=method["fold_every"],
        learning_rate=settings["training"]["learning_rate"],
        gradient_checkpointing=settings["training"]["gradient_checkpointing"],
        # A CPU has no mixed precision in float16; bfloat16 takes the same paths.
        precision="as-stored" if settings["training"]["precision"] == "as-stored" else "bf16",
    )


def try_method(
    config: PretrainedConfig,
    method: Any,
    adapter: Mapping[str, Any],
    *,
    fold_every: int | str | None = None,
    learning_rate: float = 1e-3,
    gradient_checkpointing: bool = False,
    precision: Precision = "as-stored",
) -> str:
    """Train a small model for two steps, save it, load it again; returns what was seen.

    Raises:
        TrainingError: if a loss is not finite, nothing was changed, or the reloaded model
            answers otherwise.
    """
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, config.vocab_size, (_ROWS * _STEPS, _TOKENS), generator=generator)
    rows = [Example(tokens=row.tolist(), learned_from=_TOKENS // 2) for row in tokens]
    read_first = tokens.tolist() if reads_texts_first(method, adapter) else ()
    model = attach_adapter(_drawn(config), method, adapter, calibration=read_first)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    start = adapter_state(model) if method == "corda" and isinstance(model, PeftModel) else None
    base_logits = _logits(_drawn(config), tokens)
    with tempfile.TemporaryDirectory() as folder:
        losses = _train(
            model,
            rows,
            Path(folder) / "steps",
            callbacks=_folds(fold_every),
            learning_rate=learning_rate,
            gradient_checkpointing=gradient_checkpointing,
            precision=precision,
        )
        if not all(math.isfinite(loss) for loss in losses):
            raise TrainingError(f"the losses are {losses}, not finite; lower the learning rate {learning_rate:g}.")
        trained_logits = _logits(model, tokens)
        # Not the trained tensors alone: a fold moves what they learned into tensors of its own.
        changed = sum(
            name not in before or not torch.equal(value, before[name]) for name, value in model.state_dict().items()
        )
        moved = float((trained_logits - base_logits).abs().max())
        if not changed or not moved:
            raise TrainingError(f"{changed} tensors changed and a logit moved by {moved:g}; nothing was learned.")
        saved = Path(folder) / "saved"
        if start is not None and isinstance(model, PeftModel):
            save_as_lora(model, start, saved)
        else:
            model.save_pretrained(str(saved))
        difference = float((_logits(_reloaded(config, saved, model), tokens) - trained_logits).abs().max())
    if not difference <= _MOST_DIFFERENCE:
        raise TrainingError(f"saved and loaded again, a logit differs by {difference:g}.")
    shown = " → ".join(f"{loss:.2f}" for loss in losses)
    return f"loss {shown}, {changed} tensors changed, reloaded equal to {difference:.0e}"


def _drawn(config: PretrainedConfig) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=torch.float32).eval()


def _train(
    model: PreTrainedModel | PeftModel,
    rows: Sequence[Example],
    folder: Path,
    *,
    callbacks: Sequence[TrainerCallback],
    learning_rate: float,
    gradient_checkpointing: bool,
    precision: Precision,
) -> list[float]:
    trainer = make_trainer(
        model,
        rows,
        folder=folder,
        steps=_STEPS,
        batch_size=_ROWS,
        gradient_accumulation=1,
        learning_rate=learning_rate,
        warmup=0,
        schedule="constant",
        max_grad_norm=1.0,
        weight_decay=0.0,
        seed=0,
        save_every=_STEPS + 1,
        gradient_checkpointing=gradient_checkpointing,
        precision=precision,
        cpu=True,
        pad_token=0,
        callbacks=callbacks,
    )
    trainer.train()
    # accelerate leaves its mixed precision around the model's forward; the reloaded model has none.
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def _folds(every: int | str | None) -> list[TrainerCallback]:
    if every is None:
        return []
    from secura.training.fold_schedule import FoldCallback

    return [FoldCallback(every=every)]  # type: ignore[arg-type]  # a grid's settings are checked


def _logits(model: PreTrainedModel | PeftModel, tokens: Tensor) -> Tensor:
    model.eval()
    with torch.no_grad():
        return model(input_ids=tokens).logits


def _reloaded(
    config: PretrainedConfig, saved: Path, trained: PreTrainedModel | PeftModel
) -> PreTrainedModel | PeftModel:
    if isinstance(trained, PeftModel):
        return PeftModel.from_pretrained(_drawn(config), str(saved))
    return AutoModelForCausalLM.from_pretrained(str(saved), dtype=torch.float32)
