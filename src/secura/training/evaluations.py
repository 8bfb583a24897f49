"""A look at the model every so many steps: what it has learned, and what it still knows.

transformers' `Trainer` decides when to look, keeps the checkpoint of the best look and goes back to it
at the end. What is looked at is a function's to say, since questions are asked and not rows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override

from secura.training.whole_checkpoints import TrainerOfWholeCheckpoints

Best = Literal["gain", "retention"]
_WORSE_THAN_ANY = 1e6
"""Taken off the score of a look that keeps too little: more than any loss, in nats a token."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one look found."""

    step: int
    """After which step."""
    loss: float | None
    """Nats a token of held-out rows; None where there are none."""
    kept: float | None
    """Share of what the base answered right that is answered right; None where nothing is asked."""

    def score(self, best: Best, keeps: float) -> float:
        """Which of two looks is better: that of the higher score.

        Args:
            best: whether the loss alone counts, or only that of looks which keep enough.
            keeps: the share that is enough.
        """
        gain = 0.0 if self.loss is None else -self.loss
        if best == "gain" or self.kept is None or self.kept >= keeps:
            return gain
        return self.kept - _WORSE_THAN_ANY


@dataclass(frozen=True, kw_only=True)
class Evaluations:
    """When and what is looked at, and which look is handed out."""

    every: int
    """Steps between two looks."""
    look: Callable[[int], Look]
    """Looks at the model as it is after a step."""
    best: Best | None
    """By what the best look is chosen; None hands out the last step."""
    keeps: float
    """Share that must be kept, for best retention."""
    patience: int | None
    """Looks in a row without a better one after which training stops."""

    def arguments(self, save_every: int) -> dict[str, Any]:
        """What `TrainingArguments` are told; the trainer can go back only to a look that it has saved.

        Args:
            save_every: steps between checkpoints where no look is gone back to.
        """
        told: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": self.every, "save_steps": save_every}
        if self.best is not None:
            told |= {"save_steps": self.every, "load_best_model_at_end": True}
            told |= {"metric_for_best_model": "score", "greater_is_better": True}
        return told

    def metrics(self, look: Look) -> dict[str, float]:
        """What is logged and reported of a look; its loss and knowledge kept where they are known."""
        found = {"eval_loss": look.loss, "eval_knowledge_kept": look.kept}
        if self.best is not None:
            found["eval_score"] = look.score(self.best, self.keeps)
        return {name: value for name, value in found.items() if value is not None}

    def is_over(self, state: TrainerState) -> bool:
        """Whether too many looks in a row were no better than the best."""
        if self.patience is None or state.best_global_step is None:
            return False
        return state.global_step - state.best_global_step >= self.patience * self.every


class TrainerThatLooks(TrainerOfWholeCheckpoints):
    """transformers' `Trainer`, whose evaluations are those of `Evaluations`."""

    evaluations: Evaluations | None = None

    @override
    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Look, log what was found, and let callbacks know."""
        del args, kwargs
        assert self.evaluations is not None
        metrics = self.evaluations.metrics(self.evaluations.look(self.state.global_step))
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class StopWithoutProgress(TrainerCallback):
    """Ends training once too many looks in a row were no better; what it goes by is in the trainer's own state."""

    def __init__(self, evaluations: Evaluations) -> None:
        self.evaluations = evaluations

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Stop, unless this look is the best: the trainer finds that out only afterwards."""
        del args, kwargs
        is_best = state.best_metric is None or (metrics or {})["eval_score"] > state.best_metric
        if not is_best and self.evaluations.is_over(state):
            control.should_training_stop = True


def looks_of(state: TrainerState) -> list[Look]:
    """The looks in a trainer's state, those before an interruption included."""
    return [
        Look(step=int(entry["step"]), loss=entry.get("eval_loss"), kept=entry.get("eval_knowledge_kept"))
        for entry in state.log_history
        if "eval_loss" in entry or "eval_knowledge_kept" in entry
    ]
