"""A measure of each position, taken over chunks of them, so that the logits of all never exist at once.

At a vocabulary of 152,000 the logits of 4,096 positions are 2.5 GB a copy, and a loss holds several. Here only one
chunk's are there at a time, in the backward pass too:

- where nothing but the hidden states wants a gradient, each chunk's is taken beside its values, and the backward
  pass multiplies by it: positions do not depend on each other, so that is exact, and nothing is computed twice;
- where the head is trained as well, a chunk is computed again in the backward pass.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

Measure = Callable[..., Tensor]
"""From the hidden states of some positions, and what else is known of each, to one number a position."""

_LOGITS_AT_ONCE = 2**24
"""64 MB in float32."""


def positions_at_once(vocabulary: int) -> int:
    """How many positions' logits are computed together."""
    return max(1, _LOGITS_AT_ONCE // vocabulary)


def over_chunks(
    measure: Measure,
    hidden: Float[Tensor, "positions width"],
    *known: Tensor,
    positions: int,
    head_is_trained: bool,
) -> Float[Tensor, " positions"]:
    """`measure` of every position, differentiable once in `hidden` and, where it is trained, in the head.

    Args:
        measure: called with a chunk of `hidden` and of each of `known`; returns one number a position, which must not
            depend on the other positions.
        hidden: what the head makes logits of.
        known: tensors whose first axis is the positions; no gradient flows to them.
        positions: how many are measured at once; see `positions_at_once`.
        head_is_trained: whether what `measure` computes with wants a gradient of its own.

    Raises:
        ValueError: if `positions` is below 1.
    """
    if positions < 1:
        raise ValueError(f"positions is {positions}, but counts positions, from 1.")
    if head_is_trained and torch.is_grad_enabled():
        parts = zip(*(each.split(positions) for each in (hidden, *known)), strict=True)
        done: list[Any] = [checkpoint(measure, *part, use_reentrant=False, preserve_rng_state=False) for part in parts]
        return torch.cat(done)
    return _GradientBesideValues.apply(hidden, measure, positions, *known)  # type: ignore[no-any-return]


class _GradientBesideValues(torch.autograd.Function):
    """Takes the gradient in the forward pass, while a chunk's logits are there."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, measure: Measure, positions: int, *known: Tensor) -> Tensor:
        wanted = ctx.needs_input_grad[0]
        values, gradients = [], []
        for part, *others in zip(*(each.split(positions) for each in (hidden, *known)), strict=True):
            with torch.set_grad_enabled(wanted):
                leaf = part.detach().requires_grad_(wanted)
                value = measure(leaf, *others)
            if wanted:
                gradients += torch.autograd.grad(value, leaf, torch.ones_like(value))
            values.append(value.detach())
        if wanted:
            ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (upstream,), (gradient,) = grad_outputs, ctx.saved_tensors
        others = (None,) * (len(ctx.needs_input_grad) - 1)
        return (gradient * upstream[:, None].to(gradient.dtype), *others)
