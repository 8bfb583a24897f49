import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from references import formulas
from torch.autograd import grad
from torch.testing import assert_close

from secura.numerics.s_magnorm import Bounded, Paper, WeightNorm, released_output

NORMS: list[WeightNorm] = [Bounded(tau=0.3, floor=0.05), Bounded(tau=2.0, floor=0.0), Paper()]


def matrices(*shapes: tuple[int, ...], seed: int = 0) -> list[torch.Tensor]:
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return [draw(*shape) for shape in shapes]


def as_tensor(matrix: formulas.Matrix) -> torch.Tensor:
    return torch.tensor(matrix, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(17, 33), (1, 5)])
def test_bounded_equals_the_loop_reference(shape: tuple[int, int]) -> None:
    reference, change = matrices(shape, shape)
    expected = formulas.bounded(reference.tolist(), change.tolist(), 0.3, 0.05)
    assert_close(Bounded(tau=0.3, floor=0.05).constrain(reference, change), as_tensor(expected))


@pytest.mark.parametrize("shape", [(17, 33), (1, 5)])
def test_paper_equals_the_loop_reference(shape: tuple[int, int]) -> None:
    reference, change = matrices(shape, shape)
    expected = formulas.paper(reference.tolist(), change.tolist())
    assert_close(Paper().constrain(reference, change), as_tensor(expected))


def test_released_equals_the_loop_reference() -> None:
    output, change = matrices((7, 17), (7, 17))
    expected = formulas.released(output.tolist(), change.tolist())
    assert_close(released_output(output, change), as_tensor(expected))


def test_bounded_slope_equals_differences_of_the_loop_reference() -> None:
    reference, change = matrices((3, 5), (3, 5))
    change.requires_grad_()
    norm = Bounded(tau=0.3, floor=0.05)
    (slope,) = grad(norm.constrain(reference, change).sum(), change)
    for i, j in ((0, 0), (1, 3), (2, 4)):

        def moved(value: float, i: int = i, j: int = j) -> float:
            shifted = change.tolist()
            shifted[i][j] = value
            return formulas.bounded(reference.tolist(), shifted, 0.3, 0.05)[i][j]

        expected = formulas.slope_by_differences(moved, change[i, j].item())
        assert_close(slope[i, j].item(), expected, rtol=1e-5, atol=1e-8)  # central differences of step 1e-6


@pytest.mark.parametrize("norm", NORMS)
def test_in_place_form_equals_the_plain_one_and_its_gradient(norm: WeightNorm) -> None:
    reference, change = matrices((17, 33), (17, 33))
    change.requires_grad_()
    plain = norm.constrain(reference, change)
    (expected_slope,) = grad(plain.sum(), change)
    constrained, slope = norm.constrain_with_slope_(reference, change.detach().clone())
    assert_close(constrained, plain.detach())
    assert_close(norm.times_slope_(torch.ones_like(slope), slope), expected_slope)


@pytest.mark.parametrize("norm", NORMS)
def test_what_is_taken_from_a_weight_leaves_its_move(norm: WeightNorm) -> None:
    reference, change, other = matrices((17, 33), (17, 33), (17, 33))
    expected = norm.constrain(reference, change)
    for less in (reference, other):
        move, _ = norm.constrain_with_slope_(reference, change.clone(), norm.measure(reference), less)
        assert_close(move, expected - less)


def test_rows_are_bounded_apart_from_each_other_by_what_was_measured_in_all_of_them() -> None:
    reference, change = matrices((17, 33), (17, 33))
    norm = Bounded(tau=0.3, floor=0.05)
    parts = [
        norm.constrain_with_slope_(reference[rows], change[rows].clone(), norm.measure(reference))[0]
        for rows in (slice(0, 5), slice(5, 17))
    ]
    assert torch.equal(torch.cat(parts), norm.constrain_with_slope_(reference, change.clone())[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", NORMS)
def test_no_change_is_the_reference_to_the_bit(norm: WeightNorm, dtype: torch.dtype) -> None:
    reference = matrices((17, 33))[0].to(dtype)
    reference[0] = 0
    assert torch.equal(norm.constrain(reference, torch.zeros_like(reference)), reference)
    constrained, _ = norm.constrain_with_slope_(reference, torch.zeros_like(reference))
    assert torch.equal(constrained, reference)


def test_released_is_the_layers_own_output_to_the_bit_where_nothing_changed() -> None:
    (output,) = matrices((7, 17))
    assert torch.equal(released_output(output, torch.zeros_like(output)), output)


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    scale=st.sampled_from([1e-30, 1e-6, 1.0, 1e6, 1e30, math.inf]),
    tau=st.floats(0.01, 4),
    floor=st.floats(0, 1),
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
)
def test_bounded_never_moves_a_weight_by_more_than_its_bound(
    seed: int, scale: float, tau: float, floor: float, rows: int, columns: int
) -> None:
    reference, change = matrices((rows, columns), (rows, columns), seed=seed)
    reference[0, 0] = 0
    change = change.sign() * scale if math.isinf(scale) else change * scale
    norm = Bounded(tau=tau, floor=floor)
    moved = norm.constrain(reference, change)
    one_rounding = torch.finfo(torch.float64).eps * moved.abs()
    assert moved.isfinite().all()
    assert ((moved - reference).abs() <= norm.bound(reference) + one_rounding).all()
    limit = as_tensor(formulas.bound(reference.tolist(), tau, floor))
    assert_close(norm.bound(reference), limit, rtol=1e-12, atol=1e-300)


def test_an_all_zero_weight_stays_where_it_is_under_any_change() -> None:
    weight = torch.zeros(3, 4)
    moved = Bounded(tau=0.5, floor=0.05).constrain(weight, torch.full((3, 4), 7.0))
    assert_close(moved, weight, rtol=0, atol=1e-37)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**31), exponent=st.integers(-12, 3))
def test_papers_restraint_lies_within_its_two_ends(seed: int, exponent: int) -> None:
    reference, change = matrices((6, 7), (6, 7), seed=seed)
    change *= 10.0**exponent
    restraint = (2 * reference + change) / Paper().constrain(reference, change)
    lowest, highest = (2 - 1 / (1 + math.exp(sign * 3)) for sign in (-1, 1))
    assert restraint.min().item() >= lowest - 1e-9
    assert restraint.max().item() <= highest + 1e-9


def test_paper_jumps_at_the_first_step_however_small_it_is() -> None:
    reference, change = matrices((64, 48), (64, 48))
    jumps = []
    for size in (1e-3, 1e-6, 1e-9):
        moved = Paper().constrain(reference, size * change)
        relative = ((moved - reference) / reference).abs()
        jumps.append(relative.median().item())
        assert relative.max().item() > 0.1  # the few largest ratios, next to the zeros of W
    assert_close(jumps, [0.0241] * 3, rtol=0.02, atol=0)
    assert 2 / (2 - 1 / (1 + math.exp(3))) - 1 == pytest.approx(0.0243, abs=1e-4)


@pytest.mark.parametrize(
    ("tau", "floor", "message"),
    [(0.0, 0.05, "tau is 0.0"), (0.5, -1.0, "floor is -1.0"), (math.nan, 0.0, "tau is nan")],
)
def test_a_bound_that_cannot_be_is_refused(tau: float, floor: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Bounded(tau=tau, floor=floor)


@pytest.mark.parametrize("size", [1e15, 1e25, 1e34])
def test_weights_whose_squares_no_float32_holds_are_bounded_as_the_loop_reference_bounds_them(size: float) -> None:
    reference, change = ((size * each).float() for each in matrices((17, 33), (17, 33)))
    expected = as_tensor(formulas.bounded(reference.tolist(), change.tolist(), 0.3, 0.05)) / size
    norm = Bounded(tau=0.3, floor=0.05)
    assert_close(norm.constrain(reference, change).double() / size, expected, rtol=1e-5, atol=1e-6)
    fast, slope = norm.constrain_with_slope_(reference, change.clone(), norm.measure(reference))
    assert_close(fast.double() / size, expected, rtol=1e-5, atol=1e-6)
    assert torch.isfinite(slope).all()
