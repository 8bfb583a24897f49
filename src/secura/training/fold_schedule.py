"""When a fold falls due: every n optimizer steps, or at the end of a task."""

from typing import Any, Literal

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from secura.adapters import fold
from secura.errors import ConfigError


class FoldCallback(TrainerCallback):
    """Folds the adapter on a schedule; for the stock `Trainer` and `SFTTrainer`.

    A fold sets B to 0. With a fold at every step B is 0 at each forward pass, so A gets no
    gradient at all: only `every` above 1, or `"task"`, trains both factors. The optimizer's
    moments are left as they are.

    Folds come before the checkpoint of the same step, so a run that resumes goes on from the
    folded model.
    """

    def __init__(self, *, every: int | Literal["task"], task: str = "task") -> None:
        """Set the schedule.

        Args:
            every: a number of optimizer steps, or "task" for one fold when training ends.
            task: the name the folds are stored under, and undone by.

        Raises:
            ConfigError: if `every` is neither "task" nor a whole number of at least 1.
        """
        if every != "task" and (not isinstance(every, int) or isinstance(every, bool) or every < 1):
            raise ConfigError(f"fold every is {every!r}, but must be 'task' or a whole number of steps, at least 1.")
        self.every = every
        self.task = task

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """Fold when a multiple of `every` steps is done."""
        if isinstance(self.every, int) and model is not None and state.global_step % self.every == 0:
            fold(model, self.task)

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """Fold once, when the task's last step is done."""
        # An interrupted run ends here too, and folds only once it has been resumed and finished.
        if self.every == "task" and model is not None and state.global_step >= state.max_steps:
            fold(model, self.task)
