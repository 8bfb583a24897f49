"""SEQ: one task after the other, with no countermeasure; what every strategy is measured against."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from secura.continual.strategy import Collate, Step, Strategy


class Sequential(Strategy):
    """Nothing is done against forgetting."""

    @override
    def begin_task(self, model: nn.Module, task_index: int) -> None:
        del model, task_index

    @override
    def mixed(self, rows: list[Any], batch_number: int) -> list[Any]:
        del batch_number
        return rows

    @override
    def loss_term(self, step: Step) -> Tensor | None:
        del step

    @override
    def after_step(self, model: nn.Module) -> None:
        del model

    @override
    def end_task(self, model: nn.Module, task_index: int, rows: Sequence[Any], collate: Collate) -> None:
        del model, task_index, rows, collate

    @override
    def prepare_to_serve(self, model: nn.Module) -> None:
        del model

    @override
    def back_to_training(self, model: nn.Module) -> None:
        del model

    @override
    def save(self, folder: Path) -> None:
        del folder

    @override
    def load(self, folder: Path) -> None:
        del folder
