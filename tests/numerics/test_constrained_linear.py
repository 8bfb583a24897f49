from functools import partial

import pytest
import torch
from torch.autograd import grad, gradcheck
from torch.nn.functional import linear
from torch.testing import assert_close

from secura.numerics.change import ThinFactors, weight_change
from secura.numerics.constrained_linear import constrained_linear
from secura.numerics.s_magnorm import Bounded, Paper, WeightNorm

NORMS: list[WeightNorm] = [Bounded(tau=0.5, floor=0.05), Paper()]


def draw_tensors(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return [draw(*shape) for shape in shapes]


@pytest.mark.parametrize("subtracts", [False, True])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("batch", [(5,), (2, 5), ()])
def test_product_and_gradients_equal_the_plain_form(norm: WeightNorm, subtracts: bool, batch: tuple[int, ...]) -> None:
    inputs, left, right, reference, bias = draw_tensors((*batch, 33), (17, 3), (3, 33), (17, 33), (17,))
    trained = [tensor.requires_grad_() for tensor in (inputs, left, right, bias)]
    subtract = reference if subtracts else None
    fast = constrained_linear(inputs, ThinFactors(left, right), reference, norm, bias=bias, subtract=subtract)
    weight = norm.constrain(reference, weight_change(ThinFactors(left, right)))
    plain = linear(inputs, weight - reference if subtracts else weight, bias)
    assert_close(fast, plain)
    assert_close(grad(fast.square().sum(), trained), grad(plain.square().sum(), trained))


def test_gradients_pass_gradcheck() -> None:
    inputs, left, right, reference, bias = draw_tensors((2, 3, 5), (4, 2), (2, 5), (4, 5), (4,))
    norm = Bounded(tau=0.5, floor=0.05)

    def product(inputs: torch.Tensor, left: torch.Tensor, right: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return constrained_linear(inputs, ThinFactors(left, right), reference, norm, bias=bias)

    assert gradcheck(product, [tensor.requires_grad_() for tensor in (inputs, left, right, bias)])


def test_only_the_inputs_the_factors_and_the_reference_are_kept_for_the_backward_pass() -> None:
    inputs, left, right, reference = draw_tensors((5, 33), (17, 3), (3, 33), (17, 33))
    kept: list[torch.Size] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.shape) or tensor, lambda x: x):
        constrained_linear(inputs, ThinFactors(left.requires_grad_(), right), reference, NORMS[0])
    assert sorted(kept) == sorted([inputs.shape, left.shape, right.shape, reference.shape])


def test_in_bfloat16_the_difference_form_keeps_what_a_rounded_weight_would_lose() -> None:
    inputs, reference = (tensor.bfloat16() for tensor in draw_tensors((4, 64), (32, 64)))
    left, right = torch.full((32, 1), 1e-3), reference[:1].float()
    factors, norm = ThinFactors(left, right), Bounded(tau=0.5, floor=0.05)
    exact = (
        inputs.double() @ (norm.constrain(reference.double(), weight_change(factors).double()) - reference.double()).T
    )
    difference = constrained_linear(inputs, factors, reference, norm, subtract=reference)
    rounded = constrained_linear(inputs, factors, reference, norm) - linear(inputs, reference)
    assert_close(difference.double(), exact, rtol=2e-2, atol=1e-4)  # bfloat16 keeps 8 bits
    assert (rounded.double() - exact).norm() > 0.5 * exact.norm()
