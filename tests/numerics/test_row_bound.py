from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from references import formulas
from torch.autograd import grad, gradcheck
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from secura.numerics import row_bound
from secura.numerics.change import ThinFactors, weight_change
from secura.numerics.row_bound import RowBounded, row_reference


def draw_tensors(*shapes: tuple[int, ...], seed: int = 0) -> list[torch.Tensor]:
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return [draw(*shape) for shape in shapes]


def as_tensor(matrix: formulas.Matrix) -> torch.Tensor:
    return torch.tensor(matrix, dtype=torch.float64)


def limits_of(weight: torch.Tensor, bound: RowBounded) -> torch.Tensor:
    return row_reference(weight, [], bound, undamped=False, shared_right=True).limits


def restrained(weight: torch.Tensor, factors: ThinFactors, tau: float) -> torch.Tensor:
    bound = RowBounded(tau=tau)
    return weight + weight_change(bound.restrain(factors, limits_of(weight, bound)))


@pytest.mark.parametrize("size", [1e-6, 0.03, 1.0, 100.0])
@pytest.mark.parametrize("shape", [(17, 33), (1, 5)])
def test_it_equals_the_loop_reference(shape: tuple[int, int], size: float) -> None:
    weight, left, right = draw_tensors(shape, (shape[0], 3), (3, shape[1]))
    expected = formulas.row_bounded(weight.tolist(), (size * left @ right).tolist(), 0.3)
    assert_close(restrained(weight, ThinFactors(size * left, right), 0.3), as_tensor(expected))


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    size=st.sampled_from([1e-30, 1e-6, 1.0, 1e6, 1e18]),
    tau=st.floats(0.01, 4),
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    rank=st.integers(1, 4),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_no_row_ever_moves_by_more_than_its_limit(
    seed: int, size: float, tau: float, rows: int, columns: int, rank: int, dtype: torch.dtype
) -> None:
    weight, left, right = (
        each.to(dtype) for each in draw_tensors((rows, columns), (rows, rank), (rank, columns), seed=seed)
    )
    weight[0] = 0
    bound = RowBounded(tau=tau)
    moved = bound.restrain(ThinFactors(size * left, right), limits_of(weight, bound))
    lengths = weight_change(moved).double().norm(dim=1)
    limits = torch.tensor([tau * formulas.length(row) for row in weight.tolist()], dtype=torch.float64)
    # A row is a sum of products, each rounded; where they cancel, the rounding is of their size and not of the row's.
    rounding = 10 * torch.finfo(dtype).eps * moved.left.double().norm(dim=1) * right.double().norm()
    assert (lengths <= limits + rounding + 1e-30).all()


def test_rows_that_nearly_cancel_are_held_to_their_limit_in_float32() -> None:
    (weight,) = (each.float() for each in draw_tensors((5, 64)))
    row = torch.randn(64, generator=torch.Generator().manual_seed(1))
    right = torch.stack([row, row + 1e-4 * torch.randn(64, generator=torch.Generator().manual_seed(2))])
    left = 1e5 * torch.tensor([[1.0, -1.0]]).expand(5, 2)
    bound = RowBounded(tau=0.1)
    moved = weight_change(bound.restrain(ThinFactors(left, right), limits_of(weight, bound)))
    assert_close(moved.norm(dim=1), 0.1 * weight.norm(dim=1), rtol=1e-3, atol=0)  # rows 10,000 times as long cancel


def test_a_row_keeps_the_direction_in_which_it_is_moved() -> None:
    weight, left, right = draw_tensors((17, 33), (17, 3), (3, 33))
    change = left @ right
    moved = restrained(weight, ThinFactors(left, right), 0.2) - weight
    assert_close(torch.cosine_similarity(moved, change), torch.ones(17, dtype=torch.float64))


def test_no_change_is_no_change_to_the_bit_and_has_slope_one() -> None:
    weight, left, right = draw_tensors((17, 33), (17, 3), (3, 33))
    zeros = torch.zeros_like(left).requires_grad_()
    bound = RowBounded(tau=0.2)
    moved = bound.restrain(ThinFactors(zeros, right), limits_of(weight, bound))
    assert torch.equal(moved.left, zeros)
    assert torch.equal(grad((moved.left * left).sum(), zeros)[0], left)


def test_a_row_of_zeros_stays_where_it_is() -> None:
    weight, left, right = draw_tensors((17, 33), (17, 3), (3, 33))
    weight[4] = 0
    left.requires_grad_()
    bound = RowBounded(tau=0.2)
    moved = bound.restrain(ThinFactors(1e6 * left, right), limits_of(weight, bound))
    assert weight_change(moved)[4].abs().max() < 1e-60
    assert grad(moved.left.square().sum(), left)[0].isfinite().all()


@pytest.mark.parametrize("size", [0.0, 1e-3, 0.05, 0.3, 3.0])
def test_gradients_pass_gradcheck(size: float) -> None:
    weight, left, right = draw_tensors((4, 5), (4, 2), (2, 5))
    bound = RowBounded(tau=0.3)
    limits = limits_of(weight, bound)

    def change(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return weight_change(bound.restrain(ThinFactors(left, right), limits))

    assert gradcheck(change, [(size * left).requires_grad_(), right.requires_grad_()])


def test_series_and_closed_form_meet() -> None:
    squares = row_bound._SERIES_BELOW * torch.tensor([1 - 1e-12, 1 + 1e-12], dtype=torch.float64)
    for values in row_bound._shrink_and_slope(squares):
        assert_close(values[0], values[1], rtol=1e-9, atol=0)


def test_only_the_factors_and_the_limits_are_kept_for_the_backward_pass() -> None:
    weight, left, right = draw_tensors((17, 33), (17, 3), (3, 33))
    bound = RowBounded(tau=0.3)
    limits = limits_of(weight, bound)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda x: x):
        bound.restrain(ThinFactors(left.requires_grad_(), right), limits)
    assert {each.data_ptr() for each in kept} == {each.data_ptr() for each in (left, right, limits)}


class Largest(TorchDispatchMode):
    """The most numbers that an operation has returned in one tensor."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if isinstance(output, torch.Tensor) and output.untyped_storage().data_ptr() not in self.known:
            self.numbers = max(self.numbers, output.numel())
        return output

    def __init__(self, known: torch.Tensor) -> None:
        super().__init__()
        self.known = {known.untyped_storage().data_ptr()}


def test_no_matrix_of_the_weights_shape_is_ever_made(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, left, right, fold = draw_tensors((170, 330), (170, 3), (3, 330), (170, 3))
    monkeypatch.setattr(row_bound, "_VALUES_AT_ONCE", 1000)
    bound = RowBounded(tau=0.3)
    with Largest(weight) as largest:
        reference = row_reference(weight, [ThinFactors(fold, right)], bound, undamped=False, shared_right=True)
        moved = bound.restrain(ThinFactors(left.requires_grad_(), right), reference.limits)
        grad(moved.left.square().sum(), left)
    assert largest.numbers <= 3 * 330


# ------------------------------------------------------------------ folds


def composed(weight: torch.Tensor, folds: list[ThinFactors], tau: float, *, undamped: bool) -> formulas.Matrix:
    reference = weight.tolist()
    for left, right in folds:
        change = formulas.product(left.tolist(), right.tolist())
        reference = formulas.add(reference, change) if undamped else formulas.row_bounded(reference, change, tau)
    return reference


@pytest.mark.parametrize("shared_right", [True, False])
@pytest.mark.parametrize("undamped", [True, False])
def test_folds_compose_as_the_loop_reference_does(undamped: bool, shared_right: bool) -> None:
    weight, *drawn = draw_tensors((17, 33), *[(17, 3), (3, 33)] * 3)
    rights = [drawn[1]] * 3 if shared_right else drawn[1::2]
    folds = [ThinFactors(left, right) for left, right in zip(drawn[::2], rights, strict=True)]
    found = row_reference(weight, folds, RowBounded(tau=0.4), undamped=undamped, shared_right=shared_right)
    expected = as_tensor(composed(weight, folds, 0.4, undamped=undamped))
    assert found.added is not None
    assert_close(weight + weight_change(found.added), expected)
    assert_close(found.limits, 0.4 * expected.norm(dim=1))
    assert len(found.added.right) == (3 if shared_right else 9)


def test_a_kept_fold_leaves_the_whole_change_as_it_was_to_the_bit() -> None:
    weight, right, *lefts = draw_tensors((17, 33), (3, 33), *[(17, 3)] * 3)
    bound = RowBounded(tau=0.4)
    folds: list[ThinFactors] = []
    before = torch.zeros(17, 3, dtype=torch.float64)
    for left in lefts:
        reference = row_reference(weight, folds, bound, undamped=False, shared_right=True)
        current = bound.restrain(ThinFactors(left, right), reference.limits).left
        before = current if reference.added is None else reference.added.left + current
        folds.append(ThinFactors(left, right))
        after = row_reference(weight, folds, bound, undamped=False, shared_right=True).added
        assert after is not None
        assert torch.equal(after.left, before)


def test_the_limits_of_a_bfloat16_weight_are_summed_in_float32_some_rows_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weight = draw_tensors((64, 300))[0].bfloat16()
    monkeypatch.setattr(row_bound, "_VALUES_AT_ONCE", 1000)
    limits = limits_of(weight, RowBounded(tau=0.5))
    assert_close(limits, 0.5 * weight.double().norm(dim=1), rtol=1e-6, atol=0)


def test_a_bound_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"tau is 0\.0"):
        RowBounded(tau=0.0)


@pytest.mark.parametrize("size", [1e-30, 1e15, 1e25, 1e34])
def test_rows_whose_squares_no_float32_holds_are_bounded_as_the_loop_reference_bounds_them(size: float) -> None:
    weight, left, right, fold = draw_tensors((17, 33), (17, 3), (3, 33), (17, 3))
    weight, left, fold = ((size * each).float() for each in (weight, left, fold))
    bound, folds = RowBounded(tau=0.4), [ThinFactors(fold, right.float())]
    found = row_reference(weight, folds, bound, undamped=False, shared_right=True)
    moved = bound.restrain(ThinFactors(left.requires_grad_(), right.float()), found.limits)
    (slope,) = grad((moved.left / size).sum(), left)
    assert found.added is not None
    reference = weight.double() + found.added.left.double() @ found.added.right.double()
    expected = composed(weight, folds, 0.4, undamped=False)
    assert_close(reference / size, as_tensor(expected) / size, rtol=1e-5, atol=1e-6)  # the factors are float32
    expected = formulas.row_bounded(expected, formulas.product(left.tolist(), right.tolist()), 0.4)
    became = reference + moved.left.detach().double() @ moved.right.double()
    assert_close(became / size, as_tensor(expected) / size, rtol=1e-5, atol=1e-6)
    assert torch.isfinite(slope).all()
