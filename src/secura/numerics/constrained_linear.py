"""x W'ᵀ for a norm in weight space, at LoRA's memory.

Autograd on the plain formula would keep D, D / t, tanh and W' alive for every layer until
the backward pass. Here only x, the thin factors and the reference are kept (LoRA keeps x
too, and the reference is the weight itself); the backward pass computes D and the norm
again, once for both gradients.

W' is made some rows at a time: D of these rows from the thin factors, the norm on them while they
are in the processor's cache, and the result into W' in the dtype of the product. The gradient of D
is made and used up in the same way, so that one (out, in) matrix is alive at a time, W', and beside
it three of some rows.

Where a device has kernels for the norm (`FusedNorm`), they are handed in and do the same for the whole weight at once.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from secura.numerics.change import ThinFactors, weight_change
from secura.numerics.s_magnorm import WeightNorm

_WEIGHTS_AT_ONCE = {"cpu": 2**18}
"""How many weights the norm works on at a time: what a core's cache holds, on a CPU."""
_WEIGHTS_AT_ONCE_ELSEWHERE = 2**24
"""64 MB in float32; fewer would leave a GPU idle."""


@runtime_checkable
class FusedNorm(Protocol):
    """A weight norm in one pass forward and one backward for each factor, as kernels of a device; see `secura.kernels`.

    What a kernel finds is what the norm's own methods do, up to the rounding of float32.
    """

    def weight(
        self,
        factors: ThinFactors,
        reference: Float[Tensor, "out in"],
        measured: Float[Tensor, ""] | None,
        *,
        less: Float[Tensor, "out in"] | None,
        dtype: torch.dtype,
    ) -> Float[Tensor, "out in"]:
        """W', less what is given, in a new tensor of `dtype`, laid out in memory as the reference."""
        ...

    def gradients(
        self,
        of_weight: Float[Tensor, "out in"],
        factors: ThinFactors,
        reference: Float[Tensor, "out in"],
        measured: Float[Tensor, ""] | None,
        *,
        of_left: bool,
        of_right: bool,
    ) -> tuple[Float[Tensor, "out rank"] | None, Float[Tensor, "rank in"] | None]:
        """Those of the thin factors from that of W'; None for what is not asked for."""
        ...


def constrained_linear(
    inputs: Float[Tensor, "*batch in"],
    factors: ThinFactors,
    reference: Float[Tensor, "out in"],
    norm: WeightNorm,
    *,
    measured: Float[Tensor, ""] | None = None,
    bias: Float[Tensor, " out"] | None = None,
    less: Float[Tensor, "out in"] | None = None,
    fused: FusedNorm | None = None,
) -> Float[Tensor, "*batch out"]:
    """x W'ᵀ + bias with W' = norm(W_ref, left right), or x (W' - W0)ᵀ + bias.

    W' is rounded once to the dtype of the product, like the weight that is deployed.

    Args:
        inputs: x, shape (*batch, in). Its dtype is the dtype of the product.
        factors: thin factors of D; gradients flow to them, to `inputs` and to `bias`.
        reference: W_ref, shape (out, in). A constant: no gradient flows to it.
        norm: the weight norm.
        measured: what `norm.measure` found in the reference; left out, it is measured.
        bias: added to every output, shape (out,).
        less: W0, shape (out, in), where the caller adds x W0ᵀ itself. W' - W0 is taken before it is rounded.
        fused: kernels of this norm for the device of the reference, where there are any.

    Returns:
        The product, shape (*batch, out), in the dtype of `inputs`. D and the norm are
        computed in float32 or wider.
    """
    if measured is None:
        measured = norm.measure(reference)
    product: Tensor = _ConstrainedLinear.apply(  # type: ignore[assignment]  # torch types apply as returning Any
        inputs, factors.left, factors.right, reference, bias, less, measured, norm, fused
    )
    return product


def constrained_weight(
    factors: ThinFactors,
    reference: Float[Tensor, "out in"],
    norm: WeightNorm,
    *,
    measured: Float[Tensor, ""] | None = None,
    less: Float[Tensor, "out in"] | None = None,
    dtype: torch.dtype | None = None,
    fused: FusedNorm | None = None,
) -> Float[Tensor, "out in"]:
    """W', less what is given, in a new tensor of `dtype`; without one in float32 or wider.

    It is laid out in memory as the reference, and is to the bit what `constrained_linear` multiplies by.
    """
    if measured is None:
        measured = norm.measure(reference)
    if fused is not None:
        return fused.weight(factors, reference, measured, less=less, dtype=dtype or _wide(reference))
    made: Tensor | None = None
    for rows, part, slope in _constrained_rows(factors, reference, norm, measured, less):
        del slope
        if len(part) == len(reference):
            return part if dtype is None else part.to(dtype)
        if made is None:
            made = torch.empty_like(reference, dtype=dtype or part.dtype)
        made[rows] = part
        del part
    assert made is not None, "a weight has rows"
    return made


def temporary_bytes(
    shape: torch.Size, norm: WeightNorm, *, held_in: torch.dtype, computed_in: torch.dtype, device: str
) -> int:
    """The most that a product with W' holds at a time, forward or backward, beside what it keeps and returns.

    Args:
        shape: of W.
        norm: the weight norm.
        held_in: type of W.
        computed_in: type of the product.
        device: type of the device, such as `cuda`.
    """
    wide = torch.promote_types(held_in, torch.float32)
    numbers = shape.numel()
    at_once = _WEIGHTS_AT_ONCE.get(device, _WEIGHTS_AT_ONCE_ELSEWHERE)
    by_rows = norm.by_rows and numbers > at_once
    bytes_a_number = (2 + (held_in != wide)) * wide.itemsize + (computed_in.itemsize if computed_in != wide else 0)
    return numbers * computed_in.itemsize + at_once * bytes_a_number if by_rows else numbers * bytes_a_number


def _constrained_rows(
    factors: ThinFactors, reference: Tensor, norm: WeightNorm, measured: Tensor | None, less: Tensor | None
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Some rows of W' at a time, less what is given, with their slope, both in float32 or wider."""
    wide = torch.promote_types(reference.dtype, torch.float32)
    left, right = factors.left.to(wide), factors.right.to(wide)

    def constrained(rows: slice) -> tuple[slice, Tensor, Tensor]:  # so that nothing of it outlives what it returns
        of_reference = reference[rows].to(wide)
        change = weight_change(ThinFactors(left[rows], right), like=reference)
        of_less = of_reference if less is reference else None if less is None else less[rows]
        return rows, *norm.constrain_with_slope_(of_reference, change, measured, of_less)

    return map(constrained, _some_rows(reference, norm))


def _some_rows(reference: Tensor, norm: WeightNorm) -> Iterator[slice]:
    count, width = reference.shape
    at_once = _WEIGHTS_AT_ONCE.get(reference.device.type, _WEIGHTS_AT_ONCE_ELSEWHERE)
    step = max(1, at_once // max(1, width)) if norm.by_rows else max(1, count)
    return (slice(first, min(first + step, count)) for first in range(0, count, step))


class _ConstrainedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        left: Tensor,
        right: Tensor,
        reference: Tensor,
        bias: Tensor | None,
        less: Tensor | None,
        measured: Tensor | None,
        norm: WeightNorm,
        fused: FusedNorm | None,
    ) -> Tensor:
        # Whether they are one tensor can no longer be seen once they have been saved.
        ctx.less_is_reference = less is reference
        ctx.save_for_backward(inputs, left, right, reference, None if less is reference else less, measured)
        ctx.norm, ctx.fused = norm, fused
        weight = constrained_weight(
            ThinFactors(left, right), reference, norm, measured=measured, less=less, dtype=inputs.dtype, fused=fused
        )
        return functional.linear(inputs, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad_output,) = grad_outputs
        inputs, left, right, reference, less, measured = ctx.saved_tensors
        factors, less = ThinFactors(left, right), reference if ctx.less_is_reference else less
        to_inputs, to_left, to_right, _, to_bias, *_ = ctx.needs_input_grad
        rows_out = grad_output.reshape(-1, grad_output.shape[-1])
        rows_in = inputs.reshape(-1, inputs.shape[-1]).to(rows_out.dtype)
        # A kernel has no derivative of its own; torch's operations say themselves that theirs is not to be had here.
        fused = None if torch.is_grad_enabled() else ctx.fused
        with without_autocast(grad_output.device.type):  # some call backward inside of it
            if fused is not None:
                grad_inputs = grad_left = grad_right = None
                if to_inputs:
                    weight = fused.weight(factors, reference, measured, less=less, dtype=grad_output.dtype)
                    grad_inputs = grad_output @ weight
                    del weight  # before the gradient below takes its place
                if to_left or to_right:
                    grad_left, grad_right = fused.gradients(
                        rows_out.mT @ rows_in, factors, reference, measured, of_left=to_left, of_right=to_right
                    )
            else:
                grad_inputs, grad_left, grad_right = _gradients_some_rows_at_a_time(
                    grad_output, rows_out, rows_in, factors, reference, ctx.norm, measured, less, ctx.needs_input_grad
                )
        return (grad_inputs, grad_left, grad_right, None, rows_out.sum(0) if to_bias else None, *[None] * 4)


def _gradients_some_rows_at_a_time(
    grad_output: Tensor,
    rows_out: Tensor,
    rows_in: Tensor,
    factors: ThinFactors,
    reference: Tensor,
    norm: WeightNorm,
    measured: Tensor | None,
    less: Tensor | None,
    needed: tuple[bool, ...],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Those of the inputs and of the thin factors."""
    (left, right), (to_inputs, to_left, to_right) = factors, needed[:3]
    grad_inputs = weight = None
    grad_left = torch.empty_like(left) if to_left else None
    grad_right = torch.zeros_like(right, dtype=_wide(right)) if to_right else None
    for rows, part, slope in _constrained_rows(factors, reference, norm, measured, less):
        if to_inputs and len(part) == len(reference):
            grad_inputs = grad_output @ part.to(grad_output.dtype)
        elif to_inputs:
            weight = torch.empty_like(reference, dtype=grad_output.dtype) if weight is None else weight
            weight[rows] = part
        del part  # before the gradient below takes its place
        if grad_left is None and grad_right is None:
            continue
        grad_change = norm.times_slope_((rows_out[:, rows].mT @ rows_in).to(slope.dtype), slope)
        if grad_left is not None:
            grad_left[rows] = (grad_change @ right.to(slope.dtype).mT).to(left.dtype)
        if grad_right is not None:
            grad_right.addmm_(left[rows].to(slope.dtype).mT, grad_change)
        del slope, grad_change  # before the next rows take their place
    if weight is not None:
        grad_inputs = grad_output @ weight
    return grad_inputs, grad_left, None if grad_right is None else grad_right.to(right.dtype)


def without_autocast(device: str) -> AbstractContextManager[Any]:
    """Computing in the types that are there, for as long as the block lasts."""
    return nullcontext() if device == "meta" else torch.autocast(device, enabled=False)  # meta has none to ask about


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
