"""`secura.numerics.s_magnorm.Bounded` as two Triton kernels; imported only where Triton can be.

    forward     W' = W_ref + t tanh(D / t)                   reads W_ref once, writes W' once
    backward    dL/d left = (dL/dW' · (1 - tanh²)) rightᵀ    reads W_ref and dL/dW' once, writes no matrix of their size

D, t and tanh are never in memory: a program makes a tile of D from the thin factors. All is computed in float32, the
products of tiles too: not in TF32, which keeps 10 bits.

The gradient of `right` comes from the same kernel on transposed views, in a pass of its own. Its sums run over rows
where those of `left` run over columns. In one pass, programs would have to add to each other's sums, in an order that
differs from run to run, or write out r / 64 float32 matrices of parts. C A B R and C U R train `left` alone, so one
pass is all. B A takes two, which still move less than one pass that writes dL/dD over dL/dW' and two products that
read it: 8 bytes a weight in bfloat16 and not 10, and dL/dD is not rounded in between.

A sum over columns is one of parts, each over `_COLUMNS_AT_ONCE` of them, in a fixed order: it is the same in every run.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

from secura.numerics.change import ThinFactors

_SIDE = 64
"""Of a tile; square, so that a transposed weight is read as well as another."""
_WARPS = 8
"""With tiles of this size no register spills, by ptxas for compute capability 9.0."""
_COLUMNS_AT_ONCE = 512
"""What a program of the backward pass goes through: there are many programs, and their parts stay small."""
_RANKS_IN_A_PRODUCT = 16
"""The fewest that `tl.dot` takes."""
_MOST_RANKS = 64
"""Columns of the gradient that one program sums. Others sum the rest, and make D again."""


@triton.jit
def _tanh(x):
    """To a few units in the last place, near 0 too, where 1 - 2 / (exp(2x) + 1) would lose all digits."""
    size = tl.abs(x)
    square = x * x
    series = 62.0 / 2835 * square - 17.0 / 315
    series = series * square + 2.0 / 15
    series = series * square - 1.0 / 3
    near = x + x * square * series
    far = 1 - 2 / (tl.exp(2 * size) + 1)
    return tl.where(size < 0.25, near, tl.where(x < 0, -far, far))


@triton.jit
def _tile(pointer, rows, columns, row_count, column_count, row_stride, column_stride):
    """A tile of a matrix, 0 beyond its edges. Places are counted in 64 bits: a head may have 2³¹ numbers."""
    places = rows.to(tl.int64)[:, None] * row_stride + columns.to(tl.int64)[None, :] * column_stride
    return tl.load(pointer + places, mask=(rows < row_count)[:, None] & (columns < column_count)[None, :], other=0)


@triton.jit
def _bound_and_tanh(
    reference,
    left,
    right,
    smallest,
    tau,
    rows,
    columns,
    row_count,
    column_count,
    rank,
    left_row,
    left_rank,
    right_rank,
    right_column,
    RANKS: tl.constexpr,
):
    """t and tanh(D / t) of a tile of W_ref."""
    change = tl.zeros(reference.shape, tl.float32)
    for first in range(0, rank, RANKS):
        ranks = first + tl.arange(0, RANKS)
        of_left = _tile(left, rows, ranks, row_count, rank, left_row, left_rank)
        of_right = _tile(right, ranks, columns, rank, column_count, right_rank, right_column)
        change = tl.dot(of_left.to(tl.float32), of_right.to(tl.float32), change, input_precision="ieee")
    bound = tau * tl.abs(reference) + tl.load(smallest).to(tl.float32)
    return bound, _tanh(change / bound)


@triton.jit
def _constrain(
    result,
    reference,
    less,
    left,
    right,
    smallest,
    tau,
    row_count,
    column_count,
    rank,
    result_row,
    result_column,
    reference_row,
    reference_column,
    less_row,
    less_column,
    left_row,
    left_rank,
    right_rank,
    right_column,
    LESS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    RANKS: tl.constexpr,
):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    weight = _tile(reference, rows, columns, row_count, column_count, reference_row, reference_column).to(tl.float32)
    bound, tanh = _bound_and_tanh(
        weight,
        left,
        right,
        smallest,
        tau,
        rows,
        columns,
        row_count,
        column_count,
        rank,
        left_row,
        left_rank,
        right_rank,
        right_column,
        RANKS,
    )
    move = bound * tanh
    if LESS == "reference":  # not W' - W_ref, which has lost the last bits of the move
        found = move
    elif LESS == "another":
        found = (
            weight + move - _tile(less, rows, columns, row_count, column_count, less_row, less_column).to(tl.float32)
        )
    else:
        found = weight + move
    places = rows.to(tl.int64)[:, None] * result_row + columns.to(tl.int64)[None, :] * result_column
    tl.store(result + places, found, mask=(rows < row_count)[:, None] & (columns < column_count)[None, :])


@triton.jit
def _gradient_of_left(
    parts,
    gradient,
    reference,
    left,
    right,
    smallest,
    tau,
    row_count,
    column_count,
    rank,
    gradient_row,
    gradient_column,
    reference_row,
    reference_column,
    left_row,
    left_rank,
    right_rank,
    right_column,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    COLUMNS_AT_ONCE: tl.constexpr,
    RANKS: tl.constexpr,
    MOST_RANKS: tl.constexpr,
):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    summed = tl.program_id(2) * MOST_RANKS + tl.arange(0, MOST_RANKS)
    total = tl.zeros((ROWS, MOST_RANKS), tl.float32)
    start = tl.program_id(1) * COLUMNS_AT_ONCE
    for first in range(start, min(start + COLUMNS_AT_ONCE, column_count), COLUMNS):
        columns = first + tl.arange(0, COLUMNS)
        weight = _tile(reference, rows, columns, row_count, column_count, reference_row, reference_column)
        _, tanh = _bound_and_tanh(
            weight.to(tl.float32),
            left,
            right,
            smallest,
            tau,
            rows,
            columns,
            row_count,
            column_count,
            rank,
            left_row,
            left_rank,
            right_rank,
            right_column,
            RANKS,
        )
        of_weight = _tile(gradient, rows, columns, row_count, column_count, gradient_row, gradient_column)
        of_change = of_weight.to(tl.float32) * (1 - tanh * tanh)
        of_right = _tile(right, columns, summed, column_count, rank, right_column, right_rank).to(tl.float32)
        total = tl.dot(of_change, of_right, total, input_precision="ieee")
    places = (tl.program_id(1).to(tl.int64) * row_count + rows)[:, None] * rank + summed[None, :]
    tl.store(parts + places, total, mask=(rows < row_count)[:, None] & (summed < rank)[None, :])


@dataclass(frozen=True, kw_only=True)
class FusedBounded:
    """`secura.numerics.constrained_linear.FusedNorm` of a `Bounded`."""

    tau: float

    def weight(
        self,
        factors: ThinFactors,
        reference: Tensor,
        measured: Tensor | None,
        *,
        less: Tensor | None,
        dtype: torch.dtype,
    ) -> Tensor:
        """W', less what is given, laid out as the reference."""
        result = torch.empty_like(reference, dtype=dtype)
        (rows, columns), rank = reference.shape, factors.left.shape[1]
        other = reference if less is None else less
        _start(
            _constrain,
            (triton.cdiv(rows, _SIDE), triton.cdiv(columns, _SIDE)),
            result,
            reference,
            other,
            factors.left,
            factors.right,
            measured,
            self.tau,
            rows,
            columns,
            rank,
            *result.stride(),
            *reference.stride(),
            *other.stride(),
            *factors.left.stride(),
            *factors.right.stride(),
            LESS="nothing" if less is None else "reference" if less is reference else "another",
        )
        return result

    def gradients(
        self,
        of_weight: Tensor,
        factors: ThinFactors,
        reference: Tensor,
        measured: Tensor | None,
        *,
        of_left: bool,
        of_right: bool,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Those of the thin factors from that of W'; None for what is not asked for."""
        left = self._gradient_of_left(of_weight, factors, reference, measured) if of_left else None
        if not of_right:
            return left, None
        transposed = ThinFactors(factors.right.mT, factors.left.mT)
        return left, self._gradient_of_left(of_weight.mT, transposed, reference.mT, measured).mT

    def _gradient_of_left(
        self, gradient: Tensor, factors: ThinFactors, reference: Tensor, measured: Tensor | None
    ) -> Tensor:
        (rows, columns), rank = reference.shape, factors.left.shape[1]
        most_ranks = min(_MOST_RANKS, triton.next_power_of_2(max(rank, _RANKS_IN_A_PRODUCT)))
        grid = triton.cdiv(rows, _SIDE), triton.cdiv(columns, _COLUMNS_AT_ONCE), triton.cdiv(rank, most_ranks)
        parts = gradient.new_empty(grid[1], rows, rank, dtype=torch.float32)
        _start(
            _gradient_of_left,
            grid,
            parts,
            gradient,
            reference,
            factors.left,
            factors.right,
            measured,
            self.tau,
            rows,
            columns,
            rank,
            *gradient.stride(),
            *reference.stride(),
            *factors.left.stride(),
            *factors.right.stride(),
            COLUMNS_AT_ONCE=_COLUMNS_AT_ONCE,
            MOST_RANKS=most_ranks,
        )
        return parts.sum(0).to(factors.left.dtype)


def _start(kernel: Any, grid: tuple[int, ...], *given: Any, **sizes: Any) -> None:
    """Start a kernel on the device of its first argument, which need not be the current one."""
    sizes |= {"ROWS": _SIDE, "COLUMNS": _SIDE, "RANKS": _RANKS_IN_A_PRODUCT}
    with torch.cuda.device(given[0].device) if given[0].is_cuda else nullcontext():  # the interpreter takes a CPU's
        kernel[grid](*given, **sizes, num_warps=_WARPS, enable_fp_fusion=True)
