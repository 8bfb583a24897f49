"""The ledger of folds: what each task has put into a layer, by name, so that it can be taken out.

The folds of one task in a row are one entry: their sum where folds add up, and a stack of them
where they compose. `3:sums` is the fold at position 3, `3-7:sums` a stack of five.

Folds are frozen parameters. As buffers they would break FSDP2's loader, which wants every
entry of a state dict to be shardable, and loaders that skip PEFT's hooks would miss them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from secura.adapters.sharding import is_sharded, shard_like

_ONE_FOLD = 2
"""Dimensions of a factor of a single fold."""


class FoldEntry(nn.Module):
    """The factors of a fold, or of several stacked along a first dimension, frozen, in float32."""

    def __init__(self, factors: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, factor in factors.items():
            self.register_parameter(name, nn.Parameter(factor, requires_grad=False))
        self._room: dict[str, Tensor] = {}

    def factors(self) -> dict[str, Tensor]:
        """The stored factors by name: `core`, or `up` and `down`."""
        return dict(self._parameters)  # type: ignore[arg-type]  # none of them is None

    def folds(self) -> list[dict[str, Tensor]]:
        """The factors of each fold, oldest first."""
        stored = self.factors()
        if any(factor.dim() == _ONE_FOLD for factor in stored.values()):
            return [stored]
        return [dict(zip(stored, one, strict=True)) for one in zip(*stored.values(), strict=True)]

    @property
    def can_grow(self) -> bool:
        """Whether this process holds the factors whole."""
        return not any(is_sharded(factor) for factor in self.factors().values())

    @torch.no_grad()
    def append(self, factors: Mapping[str, Tensor]) -> None:
        """Stack one more fold on; in a time that does not grow with their number, but for a copy now and then."""
        for name, stored in self.factors().items():
            stack = stored.data if stored.dim() > _ONE_FOLD else stored.data[None]
            count, room = len(stack), self._room.get(name)
            if room is None or room.data_ptr() != stack.data_ptr() or len(room) == count:
                room = self._room[name] = stack.new_empty(1 + count + count // 4, *stack.shape[1:])
                room[:count] = stack
            room[count] = factors[name]
            stored.data = room[: count + 1]


class FoldLedger(nn.Module):
    """The folds of one adapter on one layer, in the order they were made."""

    def add(self, task: str, factors: Mapping[str, Tensor], *, summed: bool) -> None:
        """Record a fold under the name of its task.

        A fold that follows another of the same task joins its entry: with `summed` it is added to
        it, which is exact where folds add up, and without it stacked on.
        """
        keys = self.keys()
        if keys and _task_of(keys[-1]) == task:
            entry = self._entry(keys[-1])
            if summed:
                with torch.no_grad():
                    for name, stored in entry.factors().items():
                        stored += shard_like(factors[name], stored)
                return
            if entry.can_grow:
                entry.append(factors)
                first, last = _positions_of(keys[-1])
                del self._modules[keys[-1]]
                self.add_module(_key(first, last + 1, task), entry)
                return
        position = 1 + _positions_of(keys[-1])[1] if keys else 0
        self.add_module(_key(position, position, task), FoldEntry(factors))

    def remove(self, task: str) -> None:
        """Take every fold of a task out again."""
        for key in [key for key in self._modules if _task_of(key) == task]:
            del self._modules[key]

    def tasks(self) -> list[str]:
        """Names of the folded tasks, first fold first, each once."""
        return tasks_of_folds(self.keys())

    def keys(self) -> list[str]:
        """Keys of the entries, oldest first."""
        return sorted(self._modules, key=_positions_of)

    def entries(self) -> list[dict[str, Tensor]]:
        """What is stored under each key, oldest first."""
        return [self._entry(key).factors() for key in self.keys()]

    def folds(self) -> list[dict[str, Tensor]]:
        """Factors of every fold that is kept apart, oldest first."""
        return [fold for key in self.keys() for fold in self._entry(key).folds()]

    def count(self) -> int:
        """How many folds are kept apart."""
        return sum(map(folds_in, self._modules))

    def replace(self, folds: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Hold exactly these entries, by key; what a checkpoint says."""
        for key in list(self._modules):
            del self._modules[key]
        for key in sorted(folds, key=_positions_of):
            self.add_module(key, FoldEntry(folds[key]))

    def _entry(self, key: str) -> FoldEntry:
        entry = self._modules[key]
        assert isinstance(entry, FoldEntry)
        return entry


def tasks_of_folds(keys: Iterable[str]) -> list[str]:
    """Names of the tasks that folds of these keys were made for, each once; an adapter's config stores the keys."""
    return list(dict.fromkeys(_task_of(key) for key in keys))


def folds_by_key(checkpoint: Iterable[tuple[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    """Group `KEY.FACTOR` entries of a checkpoint by the key of their fold."""
    folds: dict[str, dict[str, Tensor]] = {}
    for name, tensor in checkpoint:
        key, _, factor = name.rpartition(".")
        folds.setdefault(key, {})[factor] = tensor
    return folds


def folds_in(key: str) -> int:
    """How many folds the entry of a key holds apart; more than one are a stack."""
    first, last = _positions_of(key)
    return last - first + 1


def _key(first: int, last: int, task: str) -> str:
    # A module name may not hold a dot.
    place = str(first) if first == last else f"{first}-{last}"
    return f"{place}:{task.replace('%', '%25').replace('.', '%2E')}"


def _positions_of(key: str) -> tuple[int, int]:
    first, _, last = key.partition(":")[0].partition("-")
    return int(first), int(last or first)


def _task_of(key: str) -> str:
    return key.partition(":")[2].replace("%2E", ".").replace("%25", "%")
