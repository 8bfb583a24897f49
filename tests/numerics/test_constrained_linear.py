from functools import partial

import pytest
import torch
from torch.autograd import grad, gradcheck
from torch.nn.functional import linear
from torch.testing import assert_close

from secura.numerics import constrained_linear as constrained_linear_module
from secura.numerics.change import ThinFactors, weight_change
from secura.numerics.constrained_linear import constrained_linear, constrained_weight
from secura.numerics.s_magnorm import Bounded, Paper, WeightNorm

NORMS: list[WeightNorm] = [Bounded(tau=0.5, floor=0.05), Paper()]


def draw_tensors(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return [draw(*shape) for shape in shapes]


@pytest.fixture(params=[2**18, 100], ids=["all rows at once", "three rows at a time"])
def _rows_at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(constrained_linear_module._WEIGHTS_AT_ONCE, "cpu", request.param)


@pytest.mark.usefixtures("_rows_at_once")
@pytest.mark.parametrize("less_of", ["none", "the reference", "another"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("batch", [(5,), (2, 5), ()])
def test_product_and_gradients_equal_the_plain_form(norm: WeightNorm, less_of: str, batch: tuple[int, ...]) -> None:
    inputs, left, right, reference, bias, other = draw_tensors(
        (*batch, 33), (17, 3), (3, 33), (17, 33), (17,), (17, 33)
    )
    trained = [tensor.requires_grad_() for tensor in (inputs, left, right, bias)]
    less = {"none": None, "the reference": reference, "another": other}[less_of]
    fast = constrained_linear(inputs, ThinFactors(left, right), reference, norm, bias=bias, less=less)
    weight = norm.constrain(reference, weight_change(ThinFactors(left, right)))
    plain = linear(inputs, weight if less is None else weight - less, bias)
    assert_close(fast, plain)
    assert_close(grad(fast.square().sum(), trained), grad(plain.square().sum(), trained))


@pytest.mark.usefixtures("_rows_at_once")
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_the_weight_by_itself_is_what_is_multiplied_by_to_the_bit(norm: WeightNorm, transposed: bool) -> None:
    inputs, left, right, reference = (each.float() for each in draw_tensors((5, 33), (17, 3), (3, 33), (33, 17)))
    reference = reference.T if transposed else reference.reshape(17, 33)
    factors = ThinFactors(left, right)
    weight = constrained_weight(factors, reference, norm)
    assert_close(weight, norm.constrain(reference, weight_change(factors)))
    assert weight.stride() == reference.stride()
    assert torch.equal(constrained_linear(inputs, factors, reference, norm), linear(inputs, weight))
    assert constrained_weight(factors, reference, norm, dtype=torch.bfloat16).dtype == torch.bfloat16


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
    measured = torch.Size([])
    assert sorted(kept) == sorted([inputs.shape, left.shape, right.shape, reference.shape, measured])


def test_in_bfloat16_a_difference_is_taken_before_it_is_rounded() -> None:
    inputs, reference = (tensor.bfloat16() for tensor in draw_tensors((4, 64), (32, 64)))
    left, right = torch.full((32, 1), 1e-3), reference[:1].float()
    factors, norm = ThinFactors(left, right), Bounded(tau=0.5, floor=0.05)
    exact = (
        inputs.double() @ (norm.constrain(reference.double(), weight_change(factors).double()) - reference.double()).T
    )
    difference = constrained_linear(inputs, factors, reference, norm, less=reference)
    rounded = constrained_linear(inputs, factors, reference, norm) - linear(inputs, reference)
    assert_close(difference.double(), exact, rtol=2e-2, atol=1e-4)  # bfloat16 keeps 8 bits
    assert (rounded.double() - exact).norm() > 0.5 * exact.norm()
