"""Stops a training whose loss has climbed far above where it began, and names the learning rate."""

import statistics
from itertools import islice
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from secura.errors import TrainingError
from secura.training.processes import gather_from_everyone

_WINDOW = 5
"""Steps over which the loss is averaged: a single batch may be hard."""
_NATS_ABOVE = 2.0
"""A run has diverged when its mean loss is this much above the first, and half as high again."""
STRATEGY_TERM = "continual_loss"
"""What a strategy adds to the loss of a step, as it is named in the trainer's log."""


class StopAtDivergence(TrainerCallback):
    """Compares the mean loss of the last five steps with the first step's, which is the model's as it was given.

    What a strategy adds is left out: a single text that a step is held to may cost many nats, and the task none.
    """

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
        newest_first = (entry for entry in reversed(state.log_history) if "loss" in entry)
        recent = list(islice(newest_first, _WINDOW))
        first = next(entry for entry in state.log_history if "loss" in entry)
        if len(recent) < _WINDOW or recent[-1] is first:
            return
        begun, now = first["loss"], statistics.fmean(entry["loss"] for entry in recent)
        if _is_far_above(begun, now) and any(STRATEGY_TERM in entry for entry in (first, *recent)):
            terms = [entry.get(STRATEGY_TERM, 0.0) for entry in (first, *recent)]
            term, *later = map(statistics.fmean, zip(*gather_from_everyone(terms), strict=True))
            begun, now = begun - term, now - statistics.fmean(later)
        if _is_far_above(begun, now):
            raise TrainingError(
                f"training diverges: the loss was {begun:.2f} at the first step and is {now:.2f} over the last "
                f"{_WINDOW}, at step {state.global_step}; set training.learning_rate, now {args.learning_rate:g}, to a "
                f"tenth of it, or training.stop_at_divergence to false."
            )


def _is_far_above(begun: float, now: float) -> bool:
    return now > max(begun + _NATS_ABOVE, 1.5 * begun)
