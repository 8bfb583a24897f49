"""The kernels on a CPU, in Triton's interpreter; run by `test_bounded.py` in a process of its own.

Triton reads TRITON_INTERPRET when it is imported, and tests of a real GPU may live in the same process.
"""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.autograd import grad
from torch.nn import functional
from torch.testing import assert_close

from secura.kernels import bounded, fused_norm
from secura.kernels.bounded import FusedBounded
from secura.numerics.change import ThinFactors, weight_change
from secura.numerics.constrained_linear import constrained_linear, constrained_weight
from secura.numerics.s_magnorm import Bounded

NORM = Bounded(tau=0.5, floor=0.05)
FUSED = FusedBounded(tau=0.5)
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "by rows": lambda weight: weight,
    "by columns, as in Conv1D": lambda weight: weight.T.contiguous().T,
    "a part of another": lambda weight: functional.pad(weight, (3, 5, 1, 2))[1:-2, 3:-5],
}
ROUNDING = {torch.float32: {"rtol": 1e-5, "atol": 1e-6}, torch.bfloat16: {"rtol": 8e-3, "atol": 1e-3}}  # of 8 bits


def drawn(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(0))
    return [draw(*shape).to(dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_weight_is_that_of_the_plain_form(layout: str, dtype: torch.dtype) -> None:
    reference, left, right = drawn((70, 39), (70, 19), (19, 39), dtype=dtype)
    reference, factors = LAYOUTS[layout](reference), ThinFactors(left, right)
    plain = constrained_weight(factors, reference, NORM, dtype=dtype)
    ours = constrained_weight(factors, reference, NORM, dtype=dtype, fused=FUSED)
    assert ours.stride() == plain.stride()
    assert_close(ours, plain, **ROUNDING[dtype])


@pytest.mark.parametrize(
    ("layout", "dtype", "rank"),
    [
        ("by rows", torch.float32, 67),  # more ranks than one program sums
        ("by columns, as in Conv1D", torch.bfloat16, 19),
        ("a part of another", torch.float32, 3),
    ],
)
def test_gradients_are_those_of_the_written_out_formula(
    layout: str, dtype: torch.dtype, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded, "_COLUMNS_AT_ONCE", 64)  # so that a sum has parts
    reference, left, right, of_weight = drawn((70, 39), (70, rank), (rank, 39), (70, 39), dtype=dtype)
    reference = LAYOUTS[layout](reference)
    exact = ThinFactors(left.double().requires_grad_(), right.double().requires_grad_())
    weight = NORM.constrain(reference.double(), weight_change(exact))
    expected = [each.to(dtype) for each in grad(weight, exact, of_weight.double())]
    given = of_weight, ThinFactors(left, right), reference, NORM.measure(reference)
    found = FUSED.gradients(*given, of_left=True, of_right=True)
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, **ROUNDING[dtype] | {"atol": 1e-4 if dtype == torch.float32 else 1e-2})


def test_a_small_step_moves_the_weight_as_its_gradient_says() -> None:
    reference, left, right, of_weight, step = drawn((21, 34), (21, 4), (4, 34), (21, 34), (21, 4))
    left, measured = 0.1 * left, NORM.measure(reference)

    def weighed(place: float) -> float:
        moved = ThinFactors(left + place * step, right)
        weight = FUSED.weight(moved, reference, measured, less=reference, dtype=torch.float32)
        return float((weight.double() * of_weight.double()).sum())

    factors = ThinFactors(left, right)
    found, none = FUSED.gradients(of_weight, factors, reference, measured, of_left=True, of_right=False)
    assert found is not None
    assert none is None
    size = 1e-3
    assert (weighed(size) - weighed(-size)) / (2 * size) == pytest.approx(float((found * step).sum()), rel=2e-3)


@pytest.mark.parametrize(
    ("dtype", "less_of"),
    [
        (torch.float32, "none"),
        (torch.float32, "another"),
        (torch.bfloat16, "none"),
        (torch.bfloat16, "the reference"),
    ],
)
def test_a_layers_product_and_gradients_are_those_of_the_plain_form(dtype: torch.dtype, less_of: str) -> None:
    shapes = (2, 5, 33), (17, 3), (3, 33), (17, 33), (17,), (17, 33)
    inputs, left, right, reference, bias, other = drawn(*shapes, dtype=dtype)
    trained = [tensor.requires_grad_() for tensor in (inputs, left, right, bias)]
    less = {"none": None, "the reference": reference, "another": other}[less_of]
    plain, ours = (
        constrained_linear(inputs, ThinFactors(left, right), reference, NORM, bias=bias, less=less, fused=fused)
        for fused in (None, FUSED)
    )
    close = ROUNDING[dtype] if dtype == torch.float32 else {"rtol": 2e-2, "atol": 0.1}  # sums of 33 and of 17
    assert_close(ours, plain, **close)
    upstream = torch.linspace(-1, 1, plain.numel()).reshape(plain.shape).to(dtype)
    assert_close(grad(ours, trained, upstream), grad(plain, trained, upstream), **close)


def test_a_derivative_of_the_gradient_is_refused_and_not_wrong() -> None:
    inputs, left, right, reference = drawn((5, 33), (17, 3), (3, 33), (17, 33))
    product = constrained_linear(inputs, ThinFactors(left.requires_grad_(), right), reference, NORM, fused=FUSED)
    with pytest.raises(RuntimeError, match="automatic differentiation"):
        grad(product.sum(), left, create_graph=True)


def test_no_change_leaves_a_weight_as_it_is_and_an_endless_one_moves_it_by_its_bound() -> None:
    reference, left = drawn((5, 7), (5, 1))
    right, measured = torch.ones(1, 7), NORM.measure(reference)
    place = partial(FUSED.weight, reference=reference, measured=measured, less=None, dtype=torch.float32)
    assert torch.equal(place(ThinFactors(0 * left, right)), reference)
    far = place(ThinFactors(torch.inf * left, right))
    assert_close(far, reference + NORM.bound(reference) * left.sign())
    assert place(ThinFactors(torch.nan * left, right)).isnan().all()


def test_a_move_far_below_the_last_bit_of_a_weight_keeps_its_digits() -> None:
    reference, left, right = drawn((5, 7), (5, 1), (1, 7))
    bound = NORM.bound(reference.double())
    for size in (1e-12, 0.1, 1.0):
        factors = ThinFactors(size * left, right)
        move = FUSED.weight(factors, reference, NORM.measure(reference), less=reference, dtype=torch.float32)
        assert_close(move.double(), bound * torch.tanh(weight_change(factors).double() / bound), rtol=2e-6, atol=0)


def test_kernels_that_find_something_else_than_the_plain_form_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    works = fused_norm._kernels_work_on.__wrapped__
    assert works(torch.device("cpu"))
    with monkeypatch.context() as changed:
        changed.setattr(FusedBounded, "weight", lambda self, factors, reference, *_, **__: reference)
        assert not works(torch.device("cpu"))
    monkeypatch.setattr(bounded, "_constrain", None)  # as little use as without a C compiler
    assert not works(torch.device("cpu"))
