"""Stops a training whose loss has climbed far above where it began, and names the learning rate."""

import statistics
from itertools import islice
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from secura.errors import TrainingError

_WINDOW = 5
"""Steps over which the loss is averaged: a single batch may be hard."""
_NATS_ABOVE = 2.0
"""A run has diverged when its mean loss is this much above the first, and half as high again."""


class StopAtDivergence(TrainerCallback):
    """Compares the mean loss of the last five steps with the first step's, which is the model's as it was given."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Raise `TrainingError` once the loss is far above where it began."""
        del control, kwargs
        if not logs or "loss" not in logs:
            return
        newest_first = (entry["loss"] for entry in reversed(state.log_history) if "loss" in entry)
        recent = list(islice(newest_first, _WINDOW + 1))
        if len(recent) <= _WINDOW:
            return
        first = next(entry["loss"] for entry in state.log_history if "loss" in entry)
        now = statistics.fmean(recent[:_WINDOW])
        if now > max(first + _NATS_ABOVE, 1.5 * first):
            raise TrainingError(
                f"training diverges: the loss was {first:.2f} at the first step and is {now:.2f} over the last "
                f"{_WINDOW}, at step {state.global_step}; set training.learning_rate, now {args.learning_rate:g}, to a "
                f"tenth of it, or training.stop_at_divergence to false."
            )
