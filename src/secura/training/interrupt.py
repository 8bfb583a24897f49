"""Ctrl-C that saves: the first finishes the step and writes a checkpoint, the second aborts."""

import signal
from types import FrameType, TracebackType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from secura.training.processes import gather_from_everyone


class SaveOnInterrupt(TrainerCallback):
    """Turns the first SIGINT inside its `with` block into a checkpoint and an orderly stop."""

    def __init__(self) -> None:
        self.interrupted = False
        self._previous: Any = None

    def __enter__(self) -> "SaveOnInterrupt":
        """Take SIGINT over; outside the main thread Python allows no handler, and none is set."""
        try:
            self._previous = signal.signal(signal.SIGINT, self._on_signal)
        except ValueError:
            self._previous = None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        raised: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give SIGINT back to whoever had it."""
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """After an interrupt, of any of the processes: save, then stop."""
        del args, state, kwargs
        if any(gather_from_everyone(self.interrupted)):
            self.interrupted = True
            control.should_save = True
            control.should_training_stop = True
