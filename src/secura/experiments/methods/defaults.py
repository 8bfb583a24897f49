"""Putting a method's habits in place of what a configuration leaves open, so that what is stored stays true."""

from typing import Any, TypeVar

from secura.experiments.methods.adapters import HABITS
from secura.experiments.settings.run import RunConfig
from secura.experiments.settings.sequence import SequenceConfig

Config = TypeVar("Config", RunConfig, SequenceConfig)


def with_habits(config: Config) -> Config:
    """The configuration with its method's own learning rate and fold schedule filled in, and what a sequence needs."""
    habit = HABITS[config.method.name]
    method: dict[str, Any] = {}
    if config.method.fold_every == "method":
        method["fold_every"] = habit.fold_every
    if isinstance(config, SequenceConfig):
        method["adapter"] = {**habit.in_sequence, **config.method.adapter}
        if config.method.boundary == "method":
            method["boundary"] = habit.boundary
    rate = config.training.learning_rate or habit.learning_rate
    return config.model_copy(
        update={
            "method": config.method.model_copy(update=method),
            "training": config.training.model_copy(update={"learning_rate": rate}),
        }
    )
