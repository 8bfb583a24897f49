"""The ledger of folds: what each task has put into a layer, by name, so that it can be taken out.

Folds are frozen parameters. As buffers they would break FSDP2's loader, which wants every
entry of a state dict to be shardable, and loaders that skip PEFT's hooks would miss them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from secura.adapters.sharding import shard_like


class FoldEntry(nn.Module):
    """The factors that one fold has stored, frozen, in float32."""

    def __init__(self, factors: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, factor in factors.items():
            self.register_parameter(name, nn.Parameter(factor, requires_grad=False))

    def factors(self) -> dict[str, Tensor]:
        """The stored factors by name: `core`, or `up` and `down`."""
        return dict(self._parameters)  # type: ignore[arg-type]  # none of them is None


class FoldLedger(nn.Module):
    """The folds of one adapter on one layer, in the order they were made."""

    def add(self, task: str, factors: Mapping[str, Tensor], *, summed: bool) -> None:
        """Record a fold under the name of its task.

        With `summed`, a fold that follows another of the same task is added to it, which is
        exact where folds add up; a run that folds every few steps then stores one matrix.
        """
        keys = list(self._modules)
        if summed and keys and _task_of(keys[-1]) == task:
            with torch.no_grad():
                for name, stored in self._entry(keys[-1]).factors().items():
                    stored += shard_like(factors[name], stored)
            return
        position = 1 + max((_position_of(key) for key in keys), default=-1)
        self.add_module(_key(position, task), FoldEntry(factors))

    def remove(self, task: str) -> None:
        """Take every fold of a task out again."""
        for key in [key for key in self._modules if _task_of(key) == task]:
            del self._modules[key]

    def tasks(self) -> list[str]:
        """Names of the folded tasks, first fold first, each once."""
        return tasks_of_folds(self.keys())

    def keys(self) -> list[str]:
        """Keys of the entries, oldest first."""
        return sorted(self._modules, key=_position_of)

    def entries(self) -> list[dict[str, Tensor]]:
        """Factors of every fold, oldest first."""
        return [self._entry(key).factors() for key in self.keys()]

    def replace(self, folds: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Hold exactly these entries, by key; what a checkpoint says."""
        for key in list(self._modules):
            del self._modules[key]
        for key in sorted(folds, key=_position_of):
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


def _key(position: int, task: str) -> str:
    # A module name may not hold a dot.
    return f"{position}:{task.replace('%', '%25').replace('.', '%2E')}"


def _position_of(key: str) -> int:
    return int(key.partition(":")[0])


def _task_of(key: str) -> str:
    return key.partition(":")[2].replace("%2E", ".").replace("%25", "%")
