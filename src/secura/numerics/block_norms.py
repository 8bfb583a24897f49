"""Norms of a whole weight, read once and a block of rows at a time, so that no copy in a wider type is made of it."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

_ROWS = 64
"""A block of 4096 columns in float64 fits a core's cache, and is summed several times as fast as from memory."""


def root_mean_square(values: Float[Tensor, "rows columns"], of: Callable[[Tensor], Tensor] | None = None) -> float:
    """The rms of the entries, or of what `of` makes of each block of rows.

    Summed in float64: in float32 the squares of values near the smallest number would be 0.
    """
    squares = torch.zeros((), dtype=torch.float64, device=values.device)
    for block in values.detach().split(_ROWS):
        wide = (block if of is None else of(block)).double().reshape(-1)
        squares += torch.dot(wide, wide)
    return float(squares.div(values.numel()).sqrt())


def column_norms(weight: Float[Tensor, "out in"], dtype: torch.dtype) -> Float[Tensor, " in"]:
    """The L2 norm of each column, summed in `dtype`; infinite where the squares overflow in it."""
    if weight.stride(0) < weight.stride(1):  # a transposed view, whose columns lie together in memory
        blocks = weight.split(_ROWS, dim=1)
        return torch.cat([torch.linalg.vector_norm(block.T.to(dtype), dim=1) for block in blocks])
    squares = torch.zeros(weight.shape[1], dtype=dtype, device=weight.device)
    for block in weight.split(_ROWS):
        squares += block.to(dtype).square().sum(dim=0)
    return squares.sqrt()
