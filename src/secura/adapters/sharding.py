"""Weights that are divided among processes, and how one of them is put together again.

FSDP2 leaves a `DTensor` in place of a parameter outside its module's forward pass, and
DeepSpeed's ZeRO-3 an empty tensor. Both are gathered here one at a time, by all processes
together; nothing here ever holds two weights whole.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft.utils.integrations import gather_params_ctx
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate


def is_sharded(tensor: Tensor) -> bool:
    """Whether this process holds a part of the tensor only."""
    return isinstance(tensor, DTensor) or _is_partitioned(tensor)


def whole(tensor: Tensor) -> Tensor:
    """A tensor that FSDP2 may have divided, whole and without a gradient; itself where it is whole."""
    if not isinstance(tensor, DTensor):
        return tensor
    with torch.no_grad():
        return tensor.full_tensor()


def shard_like(value: Tensor, like: Tensor) -> Tensor:
    """This process's part of a value that every process holds whole, divided as `like` is."""
    if not isinstance(like, DTensor):
        return value.to(like.device)
    mesh = like.device_mesh
    copied = DTensor.from_local(value.to(like.device), mesh, [Replicate()] * mesh.ndim, run_check=False)
    return copied.redistribute(placements=like.placements)


def own_part(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds; itself where it is whole."""
    if isinstance(tensor, DTensor):
        return tensor.to_local()
    return getattr(tensor, "ds_tensor", tensor)


@contextmanager
def gathered(parameter: Tensor) -> Iterator[Tensor]:
    """One parameter whole, for as long as the block lasts."""
    if _is_partitioned(parameter):
        with gather_params_ctx([parameter]), torch.no_grad():  # type: ignore[list-item]  # it is a Parameter
            yield parameter.detach()
    else:
        yield whole(parameter.detach())


def whole_shape(parameter: Tensor) -> torch.Size:
    """The shape that a parameter has when it is whole."""
    return getattr(parameter, "ds_shape", parameter.shape)


def _is_partitioned(tensor: Tensor) -> bool:
    # DeepSpeed writes this on every parameter that ZeRO-3 has taken over.
    return hasattr(tensor, "ds_id")
