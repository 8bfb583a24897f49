"""The reference W_ref that a norm measures a change against, and what a fold does to it.

`fixed` (M2): W_ref is W0, always; a fold moves A B into U_acc and W' stays as it is.
`moving` (M1): W_ref is what the model had become at the last fold, rebuilt here from W0
and the folded changes, so W0 is never written and any fold can be left out again.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from secura.numerics.change import ThinFactors, weight_change
from secura.numerics.s_magnorm import WeightNorm


def kept_reference(
    weight: Float[Tensor, "out in"], folds: Iterable[ThinFactors], norm: WeightNorm
) -> Float[Tensor, "out in"]:
    """W_ref under `keep`: W_ref_t = norm(W_ref_{t-1}, D_t), starting from W0.

    A fold leaves W' as it was, since norm(W_ref_t, 0) is W_ref_t for every weight norm. The
    folds compose, so their order matters. Float32 or wider: in bfloat16 an update below
    1/512 of its weight rounds away.
    """
    reference = weight.to(torch.promote_types(weight.dtype, torch.float32), copy=True)
    for factors in folds:
        reference, _ = norm.constrain_with_slope_(reference, weight_change(factors, like=reference).to(reference.dtype))
    return reference


def undamped_reference(weight: Float[Tensor, "out in"], folds: Iterable[ThinFactors]) -> Float[Tensor, "out in"]:
    """W_ref under `undamped`: W0 + Σ D_t, the paper's M1.

    The norm shapes training between folds only; a fold undoes its damping all at once, so W'
    jumps. Float32 or wider.
    """
    reference = weight.to(torch.promote_types(weight.dtype, torch.float32), copy=True)
    for factors in folds:
        reference += weight_change(factors).to(reference.dtype)
    return reference
