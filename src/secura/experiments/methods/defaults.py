"""What each method does unless it is told otherwise: its learning rate, its folds, its boundary between tasks.

On the bundled model each learning rate is the one, of three tried on its default task, with the
highest mean of what was learned and of what was kept, over three seeds, but one for MiCA, CorDA
and OSF; docs/log.md has the table. On any other model the peers have published rates, since a
toy's say nothing about it: LoRA, DoRA and MiCA 2e-4 (QLoRA, arXiv:2305.14314, for models up to
13 B), CorDA and full fine-tuning 2e-5 (arXiv:2406.05223), OSF 5e-5 (PEFT's own example). A rate
of our adapters moves every model alike (`secura.numerics.natural_scale`); the bundled one, which
learns its task from nothing in 150 steps, wants to be moved ten times as far a step.

Where no method is named, the bundled model learns with `secura` and any other with LoRA on every
linear layer, which keeps most when it is held to the base's own text. On a real model `secura`
takes the columns and rows that the base uses least and bounds rows as a whole: of all its forms
that forgot least, and the row bound costs less than one on each weight (docs/log.md).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from secura.experiments.settings.names import Boundary, MethodName
from secura.experiments.settings.run import RunConfig
from secura.experiments.settings.sequence import LearningConfig, SequenceConfig

SEQUENCE_STEPS = 100
"""Steps of each task of a sequence where neither steps nor epochs are set."""

Config = TypeVar("Config", RunConfig, SequenceConfig)


@dataclass(frozen=True, kw_only=True)
class MethodDefaults:
    """What a method does unless it is told otherwise."""

    learning_rate: float
    """Peak learning rate."""
    on_other_models: float | None = None
    """Peak learning rate on any model but the bundled one; None is the same."""
    max_grad_norm: float = 1.0
    """Gradients longer than this are shortened to it."""
    fold_every: int | None = None
    """Steps between folds; None for no folding."""
    boundary: Boundary = "fold"
    """What becomes of the adapter, in a sequence of tasks, when the next one begins."""
    in_sequence: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the adapter that a sequence of tasks needs otherwise than one task does."""
    adapter_on_other_models: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the adapter for one task on any model but the bundled one."""


_ON_NATURAL_SCALE = 0.05
"""Short enough to be reached at nearly every step, as 1 is by LoRA: gradients of the natural scale are some ten times
shorter. Where it is not reached, the long gradients of the first steps keep AdamW's later ones small."""

METHOD_DEFAULTS: Mapping[MethodName, MethodDefaults] = {
    # What a task may move adds up over tasks.
    "secura": MethodDefaults(
        learning_rate=1e-1,
        on_other_models=1e-2,
        max_grad_norm=_ON_NATURAL_SCALE,
        in_sequence={"tau": 0.1},
        adapter_on_other_models={"selection": "activation", "norm": "row_bounded"},
    ),
    "secura-paper": MethodDefaults(
        learning_rate=1e-1, on_other_models=1e-2, max_grad_norm=_ON_NATURAL_SCALE, fold_every=1
    ),  # as published
    "cabr-lora": MethodDefaults(learning_rate=3e-2, on_other_models=1e-2, max_grad_norm=_ON_NATURAL_SCALE),
    "cur-lora": MethodDefaults(learning_rate=1e-1, on_other_models=3e-2, max_grad_norm=_ON_NATURAL_SCALE),
    "bounded-lora": MethodDefaults(learning_rate=3e-2, on_other_models=1e-2, max_grad_norm=_ON_NATURAL_SCALE),
    "lora": MethodDefaults(learning_rate=1e-3, on_other_models=2e-4, boundary="keep"),
    "dora": MethodDefaults(learning_rate=1e-3, on_other_models=2e-4, boundary="keep"),
    "mica": MethodDefaults(learning_rate=3e-3, on_other_models=2e-4, boundary="keep"),
    "corda": MethodDefaults(learning_rate=7e-4, on_other_models=2e-5, boundary="anew"),
    "osf": MethodDefaults(learning_rate=1e-3, on_other_models=5e-5, boundary="keep"),
    "full": MethodDefaults(learning_rate=1e-4, on_other_models=2e-5, boundary="keep"),
}


def default_rate(config: LearningConfig) -> float:
    """The method's own peak learning rate on the model of a run."""
    defaults = METHOD_DEFAULTS[config.method.name]
    return defaults.learning_rate if config.model.path is None else defaults.on_other_models or defaults.learning_rate


def _with_method_named(config: Config) -> Config:
    if config.model.path is None or "name" in config.method.model_fields_set:
        return config
    adapter = {"target_modules": "all-linear", **config.method.adapter}
    return config.model_copy(update={"method": config.method.model_copy(update={"name": "lora", "adapter": adapter})})


def with_method_defaults(config: Config) -> Config:
    """The configuration with its method's own settings in place of what was left open, so that what is stored is true.

    These are the method where none is named, the learning rate, the longest gradient, the fold schedule, the strategy
    where a share is to be kept and, in a sequence, the boundary, what its adapter needs, and the steps of each task.
    """
    config = _with_method_named(config)
    defaults = METHOD_DEFAULTS[config.method.name]
    method: dict[str, Any] = {}
    if config.method.fold_every == "method":
        method["fold_every"] = defaults.fold_every
    if isinstance(config, SequenceConfig):
        method["adapter"] = {**defaults.in_sequence, **config.method.adapter}
        if config.method.boundary == "method":
            method["boundary"] = defaults.boundary
    elif config.model.path is not None and config.method.start_from is None:
        method["adapter"] = {**defaults.adapter_on_other_models, **config.method.adapter}
    strategy: dict[str, Any] = {}
    if config.retention.keep is not None and "name" not in config.strategy.model_fields_set:
        strategy["name"] = "own_text"
    is_plain = config.method.adapter.get("scale") == "plain"
    training: dict[str, Any] = {
        "learning_rate": config.training.learning_rate or default_rate(config),
        "max_grad_norm": config.training.max_grad_norm or (1.0 if is_plain else defaults.max_grad_norm),
    }
    if isinstance(config, SequenceConfig) and config.training.steps is None and config.training.epochs is None:
        training["steps"] = SEQUENCE_STEPS
    return config.model_copy(
        update={
            "method": config.method.model_copy(update=method),
            "strategy": config.strategy.model_copy(update=strategy),
            "training": config.training.model_copy(update=training),
        }
    )
