"""A bound on how far each row of a weight moves as a whole, on the thin factors alone: LoRA's rank and LoRA's cost.

    D = left right      rho_i = ‖D_i‖      l_i = tau ‖(W_ref)_i‖
    g_i = (l_i / rho_i) tanh(rho_i / l_i)      W' = W_ref + diag(g) D

Row i moves by l_i tanh(rho_i / l_i), so by at most l_i, and in the direction in which D moves it. Since rho_i² =
left_i (right rightᵀ) left_iᵀ, no (out, in) matrix is formed, and diag(g) left and right are the factors of the whole
change: what was learned is a LoRA of the same rank.

Folds that move the reference are products of thin factors too. Those of a CUR change share R, so that they and the
change under training are one product of rank r, however many there are.

Source:
    secura's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from secura.numerics.change import ThinFactors, sum_of_changes

_VALUES_AT_ONCE = 2**22
"""Of a weight, in float32: 16 MB."""

_SMALLEST_IN_FLOAT32 = 1e-12
"""Length of a row below which its squares may not be exact in float32."""

_SERIES_BELOW = 1e-2
"""rho² / l² under which tanh(x) / x and its slope are taken from their series: the closed form of the slope cancels."""


_SERIES = (-1 / 3, 2 / 15, -17 / 315, 62 / 2835, -1382 / 155_925)
"""tanh(x) / x = 1 - x²/3 + 2 x⁴/15 - 17 x⁶/315 + 62 x⁸/2835 - 1382 x¹⁰/155925 + ..."""


@dataclass(frozen=True, kw_only=True)
class RowBounded:
    """A smooth bound on the length by which each row moves; the identity where nothing has moved, with slope 1.

    It holds up to one rounding of W', where the result is merged into a weight.
    """

    tau: float
    """The largest move of a row, as a share of its own length."""

    def __post_init__(self) -> None:
        if not self.tau > 0:
            raise ValueError(f"tau is {self.tau}, but must be above 0; a share of each row's length, such as 0.15.")

    def restrain(self, factors: ThinFactors, limits: Float[Tensor, " out"]) -> ThinFactors:
        """diag(g) D as thin factors, differentiable once in those of D.

        Args:
            factors: of D.
            limits: l, shape (out,); see `row_reference`. A constant. A row of limit 0 stays where it is.
        """
        left: Tensor = _RestrainedRows.apply(factors.left, factors.right, limits)  # type: ignore[assignment]  # torch types apply as returning Any
        return ThinFactors(left, factors.right)


@dataclass(frozen=True, kw_only=True)
class RowReference:
    """What a change is measured against, row by row."""

    limits: Float[Tensor, " out"]
    """l, the largest move of each row."""
    added: ThinFactors | None
    """W_ref - W0, what folds have moved; None where none has."""
    own: Float[Tensor, " out"]
    """Squared lengths of the rows of W0, in float64."""
    overlap: Float[Tensor, "out right"]
    """W0 rightᵀ for the right factors that folds have, in float64."""


def row_reference(
    weight: Float[Tensor, "out in"],
    folds: Sequence[ThinFactors],
    bound: RowBounded,
    *,
    undamped: bool,
    shared_right: bool,
) -> RowReference:
    """Compose the folds, and take the limits from the rows of the reference that they have led to.

    Lengths of moved rows come from ‖w + d‖² = ‖w‖² + 2 w·d + ‖d‖², in thin factors: one pass over the weight for the
    lengths of its own rows, and one product with each right factor that folds have. At most a few rows of it are held
    in float64 at a time. One more fold is taken in by `moved_row_reference`, to the bits that composing all gives.

    Args:
        weight: W0, shape (out, in), any floating dtype.
        folds: what each fold has stored, oldest first.
        bound: restrains each fold as it was restrained when it was folded.
        undamped: whether a fold is added as it is, without the bound.
        shared_right: whether all folds have one right factor in common, as those of a CUR change have.
    """
    with torch.no_grad():
        own = _row_squares(weight)
        found = RowReference(limits=bound.tau * own.sqrt(), added=None, own=own, overlap=own.new_zeros(len(own), 0))
    for fold in folds:
        found = moved_row_reference(found, weight, fold, bound, undamped=undamped, shared_right=shared_right)
    return found


@torch.no_grad()
def moved_row_reference(
    reference: RowReference,
    weight: Float[Tensor, "out in"],
    fold: ThinFactors,
    bound: RowBounded,
    *,
    undamped: bool,
    shared_right: bool,
) -> RowReference:
    """The reference that one more fold leads to; arguments as of `row_reference`."""
    own, overlap = reference.own, reference.overlap
    if not (shared_right and overlap.shape[1]):
        overlap = torch.cat([overlap, _products(weight, fold.right)], 1)
    moved = fold if undamped else bound.restrain(fold, reference.limits)
    added = moved if reference.added is None else sum_of_changes([reference.added, moved], shared_right=shared_right)
    left, right = added.left.to(own.dtype), added.right.to(own.dtype)
    squares = own + (left * (2 * overlap + left @ (right @ right.mT))).sum(1)
    return RowReference(limits=bound.tau * squares.clamp_min(0).sqrt(), added=added, own=own, overlap=overlap)


class _RestrainedRows(torch.autograd.Function):
    """diag(g) left. Keeps the factors alone, and computes the rest again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, limits: Tensor) -> Tensor:
        ctx.save_for_backward(left, right, limits)
        _, _, squares = _measured_rows(left, right, limits)
        shrink, _ = _shrink_and_slope(squares)
        return (shrink[:, None] * left.to(shrink.dtype)).to(left.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        left, right, limits = ctx.saved_tensors
        rows, spread, squares = _measured_rows(left, right, limits)
        shrink, slope = _shrink_and_slope(squares)
        grad_output = grad_output.to(shrink.dtype)
        grad_squares = slope * (grad_output * left.to(shrink.dtype)).sum(1)
        grad_left = grad_right = None
        if ctx.needs_input_grad[0]:
            through_squares = spread.mul_((2 * grad_squares / _above_zero(limits))[:, None])
            grad_left = through_squares.addcmul_(shrink[:, None], grad_output).to(left.dtype)
        if ctx.needs_input_grad[1]:
            grad_gram = rows.mT @ (grad_squares[:, None] * rows)
            grad_right = (2 * grad_gram @ right.to(shrink.dtype)).to(right.dtype)
        return grad_left, grad_right, None


def _measured_rows(left: Tensor, right: Tensor, limits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """X = left / l, X (right rightᵀ) and rho² / l². In float64: the terms of rho² may cancel where rows are alike."""
    wide = _accurate(left)
    right = right.to(wide)
    rows = left.to(wide) / _above_zero(limits.to(wide))[:, None]
    spread = rows @ (right @ right.mT)
    return rows, spread, (rows * spread).sum(1).clamp_min_(0)


def _shrink_and_slope(squares: Tensor) -> tuple[Tensor, Tensor]:
    """g = tanh(√q) / √q of q = rho² / l², and its derivative in q."""
    root = squares.sqrt()
    tanh = root.tanh()
    shrink = tanh / root
    slope = (1 - tanh.square() - shrink) / (2 * squares)
    small = squares < _SERIES_BELOW
    near_shrink, near_slope = torch.ones_like(squares), torch.zeros_like(squares)
    power = torch.ones_like(squares)
    for order, term in enumerate(_SERIES, start=1):
        near_slope += order * term * power
        power = power * squares
        near_shrink += term * power
    return torch.where(small, near_shrink, shrink), torch.where(small, near_slope, slope)


def _above_zero(limits: Tensor) -> Tensor:
    """No limit at or near 0: as the fourth root of the smallest number, it moves nothing, and nothing overflows."""
    return limits.clamp_min(torch.finfo(limits.dtype).tiny ** 0.25)


def _row_squares(weight: Tensor) -> Tensor:
    """‖W_i‖² of each row."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    accurate, parts = _accurate(weight), []
    for some in _some_rows(weight):
        norms = torch.linalg.vector_norm(some.to(wide), dim=1)
        odd = ~((norms > _SMALLEST_IN_FLOAT32) & torch.isfinite(norms))
        norms = norms.to(accurate)
        # Squares that overflow or underflow. A trace cannot look at a value, and lets them.
        if not (odd.is_meta or torch.compiler.is_compiling()) and odd.any():
            norms = torch.where(odd, torch.linalg.vector_norm(some.to(accurate), dim=1), norms)
        parts.append(norms)
    return torch.cat(parts).square_()


def _products(weight: Tensor, right: Tensor) -> Tensor:
    """W rightᵀ, shape (out, rank)."""
    wide = _accurate(weight)
    across = right.to(wide).mT
    return torch.cat([some.to(wide) @ across for some in _some_rows(weight)])


def _some_rows(weight: Tensor) -> tuple[Tensor, ...]:
    return weight.split(max(1, _VALUES_AT_ONCE // max(1, weight.shape[1])))


def _accurate(tensor: Tensor) -> torch.dtype:
    return torch.float32 if tensor.device.type == "mps" else torch.float64  # Apple's GPUs have no float64
