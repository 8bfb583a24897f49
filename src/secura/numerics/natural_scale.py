"""The scale of a change D at which a learning rate means the same on every layer of every model.

One step of AdamW at rate η moves each entry of the factor that begins at 0 by about η, up or
down. Seen as random signs S, such a step moves D by

    cabr      η · scale · C A S R      rms  η · scale · ‖C A‖_F ‖R‖_F / √(out · in)
    cur       η · scale · C S R        rms  η · scale · ‖C‖_F ‖R‖_F / √(out · in)
    low_rank  η · scale · S A          rms  η · scale · ‖A‖_F / √in

The natural scale makes that η times the natural size of D: at a rate of 1e-2 a step moves D by
one hundredth of it. The natural size is the rms of the bound under `bounded` and, spread over each
row, under `row_bounded`, and a tenth of the rms of W otherwise. A begins at an rms of 1, so that a
weight ten times as large learns as before, ten times as large.

Source:
    secura's own. Steps whose signs agree move D by more, by up to √(r k).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from secura.numerics.block_norms import root_mean_square
from secura.numerics.row_bound import RowBounded
from secura.numerics.s_magnorm import Bounded, WeightNorm

LARGEST_SCALE = 1e30
"""Of a change of ordinary size: a weight that asks for more is zero, but for rounding. Larger ones may ask for more."""

_LARGEST_NUMBER = 1e37
"""A multiplier beyond it may overflow in float32."""

UNBOUNDED_SHARE = 0.1
"""Natural size of a change that no bound restrains, as a share of the weight's rms."""


def natural_size(weight: Float[Tensor, "out in"], norm: WeightNorm | RowBounded | None) -> float:
    """The natural size of D, as an rms over the entries of W: of its bound, or a tenth of W's own."""
    if isinstance(norm, RowBounded):
        return norm.tau * root_mean_square(weight)  # the rms of tau ‖W_i‖ / √in
    if isinstance(norm, Bounded):
        measured, wide = norm.measure(weight), torch.promote_types(weight.dtype, torch.float32)
        return root_mean_square(weight, of=lambda rows: norm.bound(rows.to(wide), measured))
    return UNBOUNDED_SHARE * root_mean_square(weight)


def sign_step_size(left: Float[Tensor, "out k"] | None, right: Float[Tensor, "r in"]) -> float:
    """The rms of left S right for random signs S of the shape between them; `left` is the identity where it is None."""
    rms = root_mean_square(right) * right.shape[0] ** 0.5
    return rms if left is None else rms * root_mean_square(left) * left.shape[1] ** 0.5


def natural_scale(size: float, step_size: float) -> float:
    """What D is multiplied by so that a step of signs moves it by `size`; 1 where no number in float32 does that."""
    scale = size / step_size if step_size > 0 else 0.0
    return scale if 0 < scale < min(LARGEST_SCALE * max(1.0, size), _LARGEST_NUMBER) else 1.0


def with_unit_rms(factor: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    """A factor divided by its rms; zeros stay zeros."""
    rms = root_mean_square(factor)
    return factor.double().div(rms).to(factor.dtype) if rms > 0 else factor
