"""How many rows go through a model at once: fewer as soon as memory runs out.

The longest rows go first, so what does not fit fails at once. Memory grows with the rows of a
batch times the length they are padded to; that product is what is halved, so that shorter
rows, later, still go many at a time.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Literal

import torch

from secura.errors import ConfigError
from secura.training.memory import is_out_of_memory

Wanted = int | Literal["auto"]

_ROWS_AT_FIRST = {"cuda": 256, "cpu": 64}
_COST_AT_FIRST = {"cuda": 2**16, "cpu": 2**14}
_VOCABULARY_OF_COST_ONE = 2**13
"""A token whose logits are kept costs as much as a token in the context, for each 8,192 entries of the vocabulary."""


class BatchSize:
    """How many rows fit; it shrinks and remembers, so one is shared by all that a model is asked."""

    def __init__(self, wanted: Wanted, device: torch.device) -> None:
        if wanted != "auto" and wanted < 1:
            raise ConfigError(f"batch size is {wanted}; give a number of rows, at least 1, or auto.")
        kind = device.type if device.type in _ROWS_AT_FIRST else "cuda"
        self.rows = _ROWS_AT_FIRST[kind] if wanted == "auto" else wanted
        self.cost = _COST_AT_FIRST[kind] if wanted == "auto" else sys.maxsize

    def count(self, cost: int) -> int:
        """How many rows of that cost go at once; at least one."""
        return max(1, min(self.rows, self.cost // max(1, cost)))

    def shrink(self, rows: int, cost: int) -> None:
        """Take half of what did not fit, and no more from now on."""
        self.cost = max(1, rows * cost // 2)


def row_cost(length: int, kept: int, vocabulary: int) -> int:
    """What a row takes, in tokens: its length, or its logits where they take more."""
    return max(length, kept * vocabulary // _VOCABULARY_OF_COST_ONE)


def in_batches(
    order: Sequence[int], costs: Sequence[int], size: BatchSize, compute: Callable[[list[int]], None]
) -> None:
    """Call `compute` with batches of `order`, again with fewer rows where memory runs out.

    Args:
        order: indices of the rows, costliest first.
        costs: what each row takes, by index; see `row_cost`.
        size: how many fit; remembers what did not.
        compute: stores its results only once it has them all, since it may be called again.
    """
    done = 0
    while done < len(order):
        cost = costs[order[done]]
        batch = list(order[done : done + size.count(cost)])
        if _fits(compute, batch):
            done += len(batch)
        else:
            # Out here, the error and the tensors its traceback held are gone.
            torch.cuda.empty_cache()
            size.shrink(len(batch), cost)


def _fits(compute: Callable[[list[int]], None], batch: list[int]) -> bool:
    try:
        compute(batch)
    except (RuntimeError, MemoryError) as problem:
        if len(batch) == 1 or not is_out_of_memory(problem):
            raise
        return False
    return True


def longest_first(rows: Sequence[Sequence[int]], costs: Sequence[int]) -> list[int]:
    """Indices of the rows, costliest first; ties by their tokens, so that the order they come in has no say."""
    return sorted(range(len(rows)), key=lambda index: (-costs[index], list(rows[index])))
