"""The change D under training, as a product of two thin factors: D = left right.

| change     | D                  | left (out, r)   | right (r, in)          |
|------------|--------------------|-----------------|------------------------|
| `cabr`     | C (U_acc + A B) R  | C (U_acc + A B) | R                      |
| `cur`      | C (U_acc + U) R    | C (U_acc + U)   | R                      |
| `low_rank` | B A + Σ B_t A_t    | [B, B_1, ...]   | [A, A_1, ...], stacked |

U_acc, and the pairs (B_t, A_t), are what earlier folds have accumulated. A scale, LoRA's
alpha / r, multiplies the factor that is trained, or A. Whoever needs D as a matrix calls
`weight_change`; whoever needs only x Dᵀ calls `output_change` and never forms it.

With the core on the left, what x meets is frozen: the backward pass needs x Rᵀ of r numbers a
token and not x itself, and all changes of a layer have R in common.
"""

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class ThinFactors(NamedTuple):
    """The two factors of D = left right."""

    left: Float[Tensor, "out rank"]
    right: Float[Tensor, "rank in"]


def cabr_core(inner: Float[Tensor, "r k"], outer: Float[Tensor, "k r"]) -> Float[Tensor, "r r"]:
    """The trained core A B of C A B R. With k >= r the bottleneck widens ("inverse" low rank)."""
    return inner @ outer


def cur_factors(
    columns: Float[Tensor, "out r"],
    core: Float[Tensor, "r r"],
    rows: Float[Tensor, "r in"],
    scale: float = 1.0,
) -> ThinFactors:
    """D = scale · C core R, for `cur` and, with the core A B, for `cabr`."""
    return ThinFactors(columns @ (scale * core), rows)


def low_rank_factors(
    up: Float[Tensor, "out r"],
    down: Float[Tensor, "r in"],
    folded: Sequence[tuple[Float[Tensor, "out _"], Float[Tensor, "_ in"]]] = (),
    scale: float = 1.0,
) -> ThinFactors:
    """D = scale · (B A + Σ B_t A_t) over the folded pairs (B_t, A_t)."""
    if folded:
        up = torch.cat([up, *(pair[0].to(up.dtype) for pair in folded)], dim=1)
        down = torch.cat([down, *(pair[1].to(down.dtype) for pair in folded)], dim=0)
    return ThinFactors(up, scale * down)


def sum_of_changes(changes: Sequence[ThinFactors], *, shared_right: bool) -> ThinFactors:
    """Σ D_t as one product: of their own rank where they have the right factor in common, else of the ranks' sum."""
    if shared_right:
        return ThinFactors(reduce(torch.add, [each.left for each in changes]), changes[0].right)
    return ThinFactors(torch.cat([each.left for each in changes], 1), torch.cat([each.right for each in changes]))


def weight_change(factors: ThinFactors, *, like: Float[Tensor, "_ in"] | None = None) -> Float[Tensor, "out in"]:
    """D written out in full, laid out in memory as `like`: row by row, or column by column as in a transpose.

    The layout decides how a product with D rounds; a norm keeps it from D to W'.
    """
    if like is not None and like.stride(0) < like.stride(1):
        return (factors.right.mT @ factors.left.mT).mT
    return factors.left @ factors.right


def output_change(inputs: Float[Tensor, "*batch in"], factors: ThinFactors) -> Float[Tensor, "*batch out"]:
    """x Dᵀ, multiplied through the factors, so that no (out, in) matrix is formed."""
    return (inputs @ factors.right.mT) @ factors.left.mT
