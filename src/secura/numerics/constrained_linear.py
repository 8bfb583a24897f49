"""x W'ᵀ for a norm in weight space, at LoRA's memory.

Autograd on the plain formula would keep D, D / t, tanh and W' alive for every layer until
the backward pass. Here only x, the thin factors and the reference are kept (LoRA keeps x
too, and the reference is the weight itself); the backward pass computes D and the norm
again. At most two (out, in) temporaries are alive at any time, one layer at a time.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from secura.numerics.change import ThinFactors, weight_change
from secura.numerics.s_magnorm import WeightNorm


def constrained_linear(
    inputs: Float[Tensor, "*batch in"],
    factors: ThinFactors,
    reference: Float[Tensor, "out in"],
    norm: WeightNorm,
    *,
    bias: Float[Tensor, " out"] | None = None,
    subtract: Float[Tensor, "out in"] | None = None,
) -> Float[Tensor, "*batch out"]:
    """x W'ᵀ + bias with W' = norm(W_ref, left right), or x (W' - W0)ᵀ with `subtract` = W0.

    Args:
        inputs: x, shape (*batch, in). Its dtype is the dtype of the product.
        factors: thin factors of D; gradients flow to them, to `inputs` and to `bias`.
        reference: W_ref, shape (out, in). A constant: no gradient flows to it.
        norm: the weight norm.
        bias: added to every output, shape (out,).
        subtract: W0, shape (out, in), when the caller adds x W0ᵀ itself. In a dtype of 16
            bits that keeps changes which W' would round away.

    Returns:
        The product, shape (*batch, out), in the dtype of `inputs`. D and the norm are
        computed in float32 or wider.
    """
    product: Tensor = _ConstrainedLinear.apply(inputs, factors.left, factors.right, reference, bias, subtract, norm)  # type: ignore[assignment]  # torch types apply as returning Any
    return product


def constrained_weight_(
    left: Tensor, right: Tensor, reference: Tensor, subtract: Tensor | None, norm: WeightNorm
) -> tuple[Tensor, Tensor]:
    """W' (less W0 where given) and dW'/dD, in float32 or wider and in two new tensors."""
    wide = torch.promote_types(reference.dtype, torch.float32)
    change = weight_change(ThinFactors(left.to(wide), right.to(wide)), like=reference)
    weight, slope = norm.constrain_with_slope_(reference.to(wide), change)
    return (weight if subtract is None else weight.sub_(subtract)), slope


class _ConstrainedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        left: Tensor,
        right: Tensor,
        reference: Tensor,
        bias: Tensor | None,
        subtract: Tensor | None,
        norm: WeightNorm,
    ) -> Tensor:
        ctx.save_for_backward(inputs, left, right, reference, subtract)
        ctx.norm = norm
        weight, _ = constrained_weight_(left, right, reference, subtract, norm)
        return functional.linear(inputs, weight.to(inputs.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad_output,) = grad_outputs
        inputs, left, right, reference, subtract = ctx.saved_tensors
        grad_inputs = grad_left = grad_right = grad_bias = None
        weight, slope = constrained_weight_(left, right, reference, subtract, ctx.norm)
        if ctx.needs_input_grad[0]:
            grad_inputs = grad_output @ weight.to(grad_output.dtype)
        del weight  # before G below takes its place
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            rows_out = grad_output.reshape(-1, grad_output.shape[-1])
            rows_in = inputs.reshape(-1, inputs.shape[-1])
            grad_change = (rows_out.mT @ rows_in.to(rows_out.dtype)).to(slope.dtype).mul_(slope)
            if ctx.needs_input_grad[1]:
                grad_left = (grad_change @ right.to(slope.dtype).mT).to(left.dtype)
            if ctx.needs_input_grad[2]:
                grad_right = (left.to(slope.dtype).mT @ grad_change).to(right.dtype)
        if ctx.needs_input_grad[4]:
            grad_bias = grad_output.reshape(-1, grad_output.shape[-1]).sum(0)
        return grad_inputs, grad_left, grad_right, None, grad_bias, None, None
