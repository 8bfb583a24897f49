"""Whether a tensor holds NaN or infinity, in one pass over it."""

import math

import torch
from torch import Tensor


def all_finite(values: Tensor) -> bool:
    """Whether every value is finite; True for a tensor that holds none.

    The sum of the squares is NaN or infinite where a value is, and is found at memory speed. Each value is looked at
    only where that sum overflows: `torch.isfinite` writes two tensors of the same shape, and takes many times as long.

    Args:
        values: of any shape and type, not on the meta device; whole numbers are finite.
    """
    if not values.is_floating_point():
        return True
    if values.dtype.itemsize == 1:  # little is computed with 8 bits
        values = values.float()
    flat = values.detach().reshape(-1)
    return math.isfinite(torch.dot(flat, flat).item()) or bool(torch.isfinite(flat).all())
