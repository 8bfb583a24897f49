"""Whether the base under an adapter is still the base.

PEFT loads every key that a weights file holds, such as `lm_head.weight`, whether or not it belongs to an adapter, and
some methods write to the base as they start. Switching the adapter off does not bring back what was there.
"""

from collections.abc import Collection
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class BaseGuard:
    """The tensors of a model, as they were before an adapter was put onto it."""

    _tensors: dict[str, tuple[Tensor, int, int]]

    @classmethod
    def of(cls, model: nn.Module) -> "BaseGuard":
        """Remember a model; no weight is read, let alone copied."""
        return cls({name: (tensor, *_state(tensor)) for name, tensor in _tensors(model).items()})

    def first_changed(self, adapted: nn.Module, *, but: Collection[str] = ()) -> str | None:
        """The name of the first tensor but those in `but` that was written to or replaced since; None if none was."""
        present = {id(tensor) for tensor in _tensors(adapted).values()}
        for name, (tensor, *state) in self._tensors.items():
            if name in but:
                continue
            if id(tensor) not in present or [*_state(tensor)] != state:
                return name
        return None


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _state(tensor: Tensor) -> tuple[int, int]:
    """What changes where a tensor is written to in place, and where its data are replaced."""
    return (-1 if tensor.is_inference() else tensor._version), tensor.data_ptr()
