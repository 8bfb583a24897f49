"""Where a norm's kernels are used: the one place that chooses between them and the plain form.

The plain form stands wherever there are none: on a CPU; for the other norms; in float64; without Triton, or with one
that does not know the device or finds no C compiler; on a card from before bfloat16. Under `torch.compile` it stands
too, since the compiler makes kernels of it itself. Nothing is said of it: the result is the same.
"""

from functools import cache

import torch
from torch import Tensor, nn

from secura.numerics.change import ThinFactors, weight_change
from secura.numerics.constrained_linear import FusedNorm
from secura.numerics.s_magnorm import Bounded, WeightNorm

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_WITH_BFLOAT16 = (8, 0)
"""Compute capability; Triton makes no bfloat16 for an older card."""
_ROUNDING = 1e-5
"""As a share of what is right. Float32 keeps 24 bits, TF32 would keep 10."""


def fused_norm(norm: WeightNorm, reference: Tensor) -> FusedNorm | None:
    """The kernels of a norm for the device and type of a reference; None where the plain form is to be used."""
    if torch.compiler.is_compiling() or not isinstance(norm, Bounded):
        return None
    is_plain = type(reference) in (Tensor, nn.Parameter)  # others, such as a DTensor, are torch's alone
    if not (is_plain and reference.is_cuda and reference.dtype in _DTYPES and _kernels_work_on(reference.device)):
        return None
    from secura.kernels.bounded import FusedBounded

    return FusedBounded(tau=norm.tau)


@cache
def _kernels_work_on(device: torch.device) -> bool:
    """Whether the kernels compile for a device and find on it what the plain form finds on the CPU; tried once."""
    if torch.cuda.get_device_capability(device) < _WITH_BFLOAT16:
        return False
    try:
        return _agrees_with_the_plain_form(device)
    except Exception:  # whatever Triton, a driver or a compiler says: the plain form needs none of them
        return False


@torch.inference_mode(False)
@torch.enable_grad()
def _agrees_with_the_plain_form(device: torch.device) -> bool:
    from secura.kernels.bounded import FusedBounded

    def numbers(rows: int, columns: int) -> Tensor:  # as if drawn, but none is taken from a generator of the run's
        count = torch.arange(1, 1 + rows * columns, dtype=torch.float64, device="cpu")
        return count.square().sin().reshape(rows, columns)

    def there(tensor: Tensor) -> Tensor:
        return tensor.detach().to(device, torch.float32)

    norm = Bounded(tau=0.5, floor=0.05)
    reference, of_weight = numbers(70, 100), numbers(100, 70).mT
    factors = ThinFactors(numbers(70, 18).requires_grad_(), numbers(18, 100).requires_grad_())
    weight = norm.constrain(reference, weight_change(factors))
    expected = [weight.detach(), *torch.autograd.grad(weight, factors, of_weight)]

    fused, moved = FusedBounded(tau=norm.tau), ThinFactors(there(factors.left), there(factors.right))
    given = moved, there(reference), norm.measure(there(reference))
    found = [
        fused.weight(*given, less=None, dtype=torch.float32),
        *fused.gradients(there(of_weight), *given, of_left=True, of_right=True),
    ]
    return all(
        one is not None and float((one.cpu() - exact).norm() / exact.norm()) < _ROUNDING
        for one, exact in zip(found, expected, strict=True)
    )
