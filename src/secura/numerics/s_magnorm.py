"""S-MagNorm: sigmoid-based norms that restrain how a change D acts on a reference weight.

`Bounded` and `Paper` live in weight space and merge at no cost; `released_output` acts on
activations, as SECURA's released code does, and cannot be merged. The plain LoRA rule,
W' = W_ref + D, is the absence of a norm.

Each weight norm answers twice. `constrain` is the formula, differentiable by autograd.
`constrain_with_slope_` overwrites D to save memory and returns W' beside its slope, for
`secura.numerics.constrained_linear`; the tests hold the one to the other.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

PAPER_STEEPNESS = 6.0
"""s in Res = 2 - sigmoid(s (N - 1/2))."""

RATIO_EPSILON = 1e-8
"""eps in M = |D| / (|W_ref| + eps); the released code's own value is not known to us."""


@runtime_checkable
class WeightNorm(Protocol):
    """W' = norm(W_ref, D), element by element, with W' = W_ref wherever D is all zero."""

    @property
    def by_rows(self) -> bool:
        """Whether rows can be constrained apart from each other, given what `measure` found in all of W_ref."""
        ...

    def measure(self, reference: Float[Tensor, "out in"]) -> Float[Tensor, ""] | None:
        """What the norm needs to know of all of W_ref, to be kept until it moves; None where that is nothing."""
        ...

    def constrain(self, reference: Float[Tensor, "out in"], change: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
        """W', differentiable in `change`."""
        ...

    def constrain_with_slope_(
        self,
        reference: Float[Tensor, "rows in"],
        change: Float[Tensor, "rows in"],
        measured: Float[Tensor, ""] | None = None,
        less: Float[Tensor, "rows in"] | None = None,
    ) -> tuple[Float[Tensor, "rows in"], Float[Tensor, "rows in"]]:
        """W', less what is given, and the slope in the form that `times_slope_` takes.

        Overwrites `change`, and allocates one tensor of its shape. `measured` is what `measure` found; without it
        these rows are all of W_ref.
        """
        ...

    def times_slope_(
        self, gradient: Float[Tensor, "rows in"], slope: Float[Tensor, "rows in"]
    ) -> Float[Tensor, "rows in"]:
        """The gradient in D from that in W', in its place."""
        ...


@dataclass(frozen=True, kw_only=True)
class Bounded:
    """A smooth bound on how far each weight can move from its reference.

        t = tau (|W_ref| + floor · rms(W_ref))
        W' = W_ref + t (2 sigmoid(2 D / t) - 1) = W_ref + t tanh(D / t)

    Identity at D = 0 with slope 1, and |W' - W_ref| <= t for every D, infinite ones
    included, up to one rounding of W'. Differentiated through.

    Source:
        secura's own.
    """

    tau: float
    """The largest move of a weight, as a share of its own magnitude."""
    floor: float
    """What is added to every magnitude, as a share of the weight's rms, so that a zero can learn."""

    def __post_init__(self) -> None:
        if not self.tau > 0:
            raise ValueError(f"tau is {self.tau}, but must be above 0; a share of the weight, such as 0.5.")
        if not self.floor >= 0:
            raise ValueError(f"floor is {self.floor}, but must be at least 0; a share of the rms.")

    by_rows = True

    def measure(self, reference: Float[Tensor, "out in"]) -> Float[Tensor, ""]:
        """The bound of a weight of 0; at least the smallest normal number, so that D / t exists."""
        wide = torch.promote_types(reference.dtype, torch.float32)
        norm = torch.linalg.vector_norm(reference, dtype=wide)
        # Squares overflow in float32 from weights of 1e19 on. A trace cannot look at a value, and lets them.
        if not (norm.is_meta or torch.compiler.is_compiling() or torch.isfinite(norm)):
            largest = reference.abs().max().to(wide)
            norm = torch.linalg.vector_norm(reference / largest, dtype=wide)
            rms = (norm / reference.numel() ** 0.5).mul_(largest)
        else:
            rms = norm / reference.numel() ** 0.5
        return (self.tau * self.floor * rms).clamp_min_(torch.finfo(wide).tiny)

    def bound(
        self, reference: Float[Tensor, "rows in"], measured: Float[Tensor, ""] | None = None
    ) -> Float[Tensor, "rows in"]:
        """t, the largest move of each weight; `measured` is of all of W_ref, where these are some of its rows."""
        smallest = self.measure(reference) if measured is None else measured
        size = reference.abs()
        return torch.add(smallest, size, alpha=self.tau, out=size)

    def constrain(self, reference: Float[Tensor, "out in"], change: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
        """W' = W_ref + t tanh(D / t)."""
        bound = self.bound(reference)
        return reference + bound * torch.tanh(change / bound)

    def constrain_with_slope_(
        self,
        reference: Float[Tensor, "rows in"],
        change: Float[Tensor, "rows in"],
        measured: Float[Tensor, ""] | None = None,
        less: Float[Tensor, "rows in"] | None = None,
    ) -> tuple[Float[Tensor, "rows in"], Float[Tensor, "rows in"]]:
        """W', less what is given, and tanh(D / t), of which the slope is 1 - tanh²; overwrites `change`."""
        bound = self.bound(reference, measured)
        tanh = change.div_(bound).tanh_()
        if less is reference:
            return bound.mul_(tanh), tanh
        constrained = torch.addcmul(reference, bound, tanh, out=bound)
        return (constrained if less is None else constrained.sub_(less)), tanh

    def times_slope_(
        self, gradient: Float[Tensor, "rows in"], slope: Float[Tensor, "rows in"]
    ) -> Float[Tensor, "rows in"]:
        """gradient · (1 - tanh²), in one pass."""
        return torch.ops.aten.tanh_backward.grad_input(gradient, slope, grad_input=gradient)


@dataclass(frozen=True, kw_only=True)
class Paper:
    """S-MagNorm as published.

        M = |D| / (|W_ref| + eps)     N = M / max(M)
        Res = 2 - sigmoid(6 (N - 1/2)), within [1.047, 1.953]
        W' = (2 W_ref + D) / Res;     W' = W_ref where D is all zero

    Res is a constant for the gradient.

    Note:
        N does not shrink with D. At the first step that is not zero, W' jumps by up to
        2.4 % on most weights, however small D is, and by more on the few largest ratios;
        weights near 0 own the maximum.

    Source:
        SECURA, arXiv:2502.18168v4, S-MagNorm.
    """

    by_rows = False  # the largest ratio is one of D, over all rows

    def measure(self, reference: Float[Tensor, "out in"]) -> None:
        """Nothing: what is shared by all rows changes with D."""
        del reference

    def constrain(self, reference: Float[Tensor, "out in"], change: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
        """W' = (2 W_ref + D) / Res."""
        return (2 * reference + change) / _paper_restraint(reference, change.detach())

    def constrain_with_slope_(
        self,
        reference: Float[Tensor, "rows in"],
        change: Float[Tensor, "rows in"],
        measured: Float[Tensor, ""] | None = None,
        less: Float[Tensor, "rows in"] | None = None,
    ) -> tuple[Float[Tensor, "rows in"], Float[Tensor, "rows in"]]:
        """W', less what is given, and Res, of which the slope is 1 / Res; overwrites `change`."""
        del measured
        restraint = _paper_restraint(reference, change)
        constrained = change.add_(reference, alpha=2).div_(restraint)
        return (constrained if less is None else constrained.sub_(less)), restraint

    def times_slope_(
        self, gradient: Float[Tensor, "rows in"], slope: Float[Tensor, "rows in"]
    ) -> Float[Tensor, "rows in"]:
        """gradient / Res."""
        return gradient.div_(slope)


def _paper_restraint(reference: Float[Tensor, "out in"], change: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
    """Res. Allocates one (out, in) tensor and leaves `change` as it was."""
    ratio = reference.abs().add_(RATIO_EPSILON).reciprocal_().mul_(change).abs_()
    largest = ratio.amax()
    normed = ratio.div_(largest)
    restraint = normed.sub_(0.5).mul_(PAPER_STEEPNESS).sigmoid_().neg_().add_(2)
    # With D all zero N is 0/0. Res = 2 makes W' = 2 W_ref / 2, which is W_ref to the bit.
    return restraint.masked_fill_(largest == 0, 2.0)


def released_output(
    reference_output: Float[Tensor, "*batch out"], output_change: Float[Tensor, "*batch out"]
) -> Float[Tensor, "*batch out"]:
    """S-MagNorm as SECURA's released code computes it, on activations.

        M = |d / (y + eps)|     Res = 2 - sigmoid(6 M), or 2 where all of M is 0
        output = (2 y + d) / Res

    Args:
        reference_output: y = x W_refᵀ with the layer's own bias, shape (*batch, out).
        output_change: d = x Dᵀ plus the trained bias, shape (*batch, out).

    Note:
        Res is a constant for the gradient, as in `Paper`. The released line that divides M
        by its maximum is overwritten by the next one and never acts, so it is not here.
        Left out: where more than 90 % of Res is at most 1.2, the released code multiplies
        randomly drawn output channels by 0.99; how many it draws is not known to us.

    Source:
        what the released research code of arXiv:2502.18168 computes.
    """
    ratio = (output_change.detach() / (reference_output.detach() + RATIO_EPSILON)).abs()
    restraint = 2 - torch.sigmoid(PAPER_STEEPNESS * ratio)
    restraint = torch.where(ratio.amax() == 0, torch.full_like(restraint, 2.0), restraint)
    return (2 * reference_output + output_change) / restraint
