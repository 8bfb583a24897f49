"""What every strategy answers: how it changes a batch, a loss, a step and the end of a task.

A strategy changes what happens over steps and between tasks; an adapter changes a layer. Any
strategy works with any adapter, and attaches to the stock `Trainer` and `SFTTrainer` through
`secura.continual.strategy_callback`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from secura.evaluation.hidden_states import HiddenStates

Batch = dict[str, Any]
Collate = Callable[[list[Any]], Batch]


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a loss term may look at."""

    model: nn.Module
    """The model under training."""
    inputs: Mapping[str, Any]
    """What the model was called with: tokens, mask and labels."""
    states: HiddenStates | None
    """What predicts each next token in the forward pass; None where it could not be seen."""
    collate: Collate
    """How rows become a batch, for terms that bring rows of their own."""
    number: int
    """Optimizer steps taken so far in this task; seeds whatever is drawn."""


class Strategy(ABC):
    """One way to learn without forgetting. Every hook is answered, so that one file tells all."""

    @abstractmethod
    def begin_task(self, model: nn.Module, task_index: int) -> None:
        """Before the first step of a task, and again when a task is resumed; counts from 0."""

    @abstractmethod
    def mixed(self, rows: list[Any], batch_number: int) -> list[Any]:
        """The rows a batch is made of, given the new task's own; `batch_number` counts within the task."""

    @abstractmethod
    def loss_term(self, step: Step) -> Tensor | None:
        """What is added to the loss, a scalar; None for nothing. A step counts the mean over its forward passes."""

    @abstractmethod
    def after_step(self, model: nn.Module) -> None:
        """After each optimizer step."""

    def logged(self) -> Mapping[str, float]:
        """What is logged with each step's loss, by name; nothing where a strategy has no figures of its own."""
        return {}

    @abstractmethod
    def end_task(self, model: nn.Module, task_index: int, rows: Sequence[Any], collate: Collate) -> None:
        """After a task's last step; `rows` are all that it was trained on."""

    @abstractmethod
    def prepare_to_serve(self, model: nn.Module) -> None:
        """Put the weights that are meant to be used into the model, for scoring or saving."""

    @abstractmethod
    def back_to_training(self, model: nn.Module) -> None:
        """Undo `prepare_to_serve`."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write all that a resumed run needs, into an empty folder."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Take up what `save` has written, on the CPU; its use moves it beside the model, once."""
