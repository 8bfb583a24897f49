"""ER, experience replay: examples of earlier tasks are learned again beside the new ones.

    batch = rows of the new task + m rows of the buffer,  m = round(share / (1 - share) · new rows)

so that replayed rows make up `share` of each batch. Where that is less than half a row, one is added to one batch in
so many, and `share` is that of all batches. The batch grows, and the new task sees all of its own rows. Rows are mixed
before they are padded or packed together, so labels and masks are right whatever the collator does.

Source:
    Chaudhry et al., On Tiny Episodic Memories in Continual Learning, arXiv:1902.10486.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from secura.continual.reservoir import ReadRow, Reservoir
from secura.continual.strategy import Collate, Step, Strategy

_BUFFER_FILE = "buffer.json"


class Replay(Strategy):
    """Mixes examples of earlier tasks into each batch."""

    def __init__(
        self,
        *,
        buffer_examples: int = 500,
        share: float = 0.25,
        seed: int = 0,
        read_row: ReadRow = dict,
    ) -> None:
        """Start with an empty buffer.

        Args:
            buffer_examples: how many examples of all earlier tasks are kept.
            share: replayed rows as a share of each batch, in 0..1, both excluded.
            seed: fixes which examples are kept and replayed.
            read_row: makes a row of its mapping, where a saved buffer is read.

        Raises:
            ValueError: if `share` is not between 0 and 1, or `buffer_examples` below 1.
        """
        if not 0 < share < 1:
            raise ValueError(f"share is {share}, but must lie between 0 and 1: a share of each batch.")
        self.share = share
        self._buffer = Reservoir(buffer_examples, seed)
        self._read_row = read_row
        self._task_index = 0

    @override
    def begin_task(self, model: nn.Module, task_index: int) -> None:
        del model
        self._task_index = task_index

    @override
    def mixed(self, rows: list[Any], batch_number: int) -> list[Any]:
        wanted = self.share / (1 - self.share) * len(rows)
        count = round(wanted) or math.floor((batch_number + 1) * wanted) - math.floor(batch_number * wanted)
        return [*rows, *self._buffer.draw(count, (self._task_index << 32) + batch_number)]

    @override
    def loss_term(self, step: Step) -> Tensor | None:
        del step

    @override
    def after_step(self, model: nn.Module) -> None:
        del model

    @override
    def end_task(self, model: nn.Module, task_index: int, rows: Sequence[Any], collate: Collate) -> None:
        del model, task_index, collate
        self._buffer.add(rows)

    @override
    def prepare_to_serve(self, model: nn.Module) -> None:
        del model

    @override
    def back_to_training(self, model: nn.Module) -> None:
        del model

    @override
    def save(self, folder: Path) -> None:
        self._buffer.save(folder / _BUFFER_FILE)

    @override
    def load(self, folder: Path) -> None:
        self._buffer.load(folder / _BUFFER_FILE, self._read_row)
