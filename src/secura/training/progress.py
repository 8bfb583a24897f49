"""What a person sees while a model trains: a bar in a terminal, plain lines elsewhere."""

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from secura.training.memory import memory_in_use_mb

_PLAIN_LINES = 10
"""About how many lines a run prints where there is no terminal."""


class ShowProgress(TrainerCallback):
    """Shows step, loss, learning rate, memory and time left."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._began = 0.0
        self._first_step = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock, and the bar in a terminal."""
        del args, control, kwargs
        self._began, self._first_step = time.monotonic(), state.global_step
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("training"),
                BarColumn(bar_width=24),
                TextColumn("{task.completed:.0f}/{task.total:.0f}  {task.description}"),
                TimeRemainingColumn(compact=True),
                TextColumn("left"),
                console=self.console,
            )
            self._task = self._bar.add_task("", total=state.max_steps, completed=state.global_step)
            self._bar.start()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the step that was just logged."""
        del control, kwargs
        if not logs or "loss" not in logs:
            return
        loss, rate = f"loss {logs['loss']:.3f}", f"rate {logs.get('learning_rate', 0.0):.1e}"
        memory = f"{memory_in_use_mb(args.device):,.0f} MB"
        if "anchor_kl" in logs:
            loss += f"  moved {logs['anchor_kl']:.4f} of {logs['anchor_kl_budget']:.4f} nats"
            loss += f"  strength {logs['anchor_strength']:.2f}"
        if self._bar is not None and self._task is not None:
            text = f"{loss}  {rate}  {memory}"
            self._bar.update(self._task, completed=state.global_step, description=text)
        elif state.global_step % max(1, state.max_steps // _PLAIN_LINES) == 0 or state.global_step == 1:
            step = f"step {state.global_step}/{state.max_steps}"
            left = self._seconds_left(state)
            self.console.print(f"{step}  {loss}  {rate}  {memory}  {left:.0f} s left", highlight=False)

    def _seconds_left(self, state: TrainerState) -> float:
        done = state.global_step - self._first_step
        return (time.monotonic() - self._began) / max(done, 1) * (state.max_steps - state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the bar as it stands."""
        del args, state, control, kwargs
        self.close()

    def close(self) -> None:
        """Give the terminal back; also called when training ends in an error."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
