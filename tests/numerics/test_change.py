from functools import partial

import pytest
import torch
from references import formulas
from torch.autograd import grad
from torch.testing import assert_close

from secura.numerics.change import (
    cabr_core,
    cur_factors,
    low_rank_factors,
    output_change,
    weight_change,
)


def matrices(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return [draw(*shape) for shape in shapes]


def as_tensor(matrix: formulas.Matrix) -> torch.Tensor:
    return torch.tensor(matrix, dtype=torch.float64)


def test_cabr_equals_the_loop_reference() -> None:
    columns, inner, outer, rows, accumulated = matrices((17, 3), (3, 8), (8, 3), (3, 33), (3, 3))
    factors = cur_factors(columns, accumulated + cabr_core(inner, outer), rows)
    lists = [matrix.tolist() for matrix in (columns, inner, outer, rows, accumulated)]
    assert_close(weight_change(factors), as_tensor(formulas.cabr_change(*lists)))


def test_cur_with_a_scale_equals_the_loop_reference() -> None:
    columns, core, rows = matrices((17, 3), (3, 3), (3, 33))
    expected = as_tensor(formulas.cur_change(columns.tolist(), core.tolist(), rows.tolist()))
    assert_close(weight_change(cur_factors(columns, core, rows, scale=0.25)), 0.25 * expected)


def test_low_rank_with_folds_equals_the_loop_reference() -> None:
    up, down, up_0, down_0, up_1, down_1 = matrices((17, 3), (3, 33), (17, 2), (2, 33), (17, 4), (4, 33))
    folded = [(up_0, down_0), (up_1, down_1)]
    expected = formulas.low_rank_change(up.tolist(), down.tolist(), [(a.tolist(), b.tolist()) for a, b in folded])
    assert_close(weight_change(low_rank_factors(up, down, folded, scale=2.0)), 2 * as_tensor(expected))


@pytest.mark.parametrize(("out", "width", "r", "k"), [(17, 33, 3, 8), (64, 48, 5, 5)])
def test_output_change_equals_the_written_out_change(out: int, width: int, r: int, k: int) -> None:
    inputs, columns, rows = matrices((2, 5, width), (out, r), (r, width))
    trained = inner, outer = matrices((r, k), (k, r))
    inner.requires_grad_()
    outer.requires_grad_()
    factors = cur_factors(columns, cabr_core(inner, outer), rows)
    fast = output_change(inputs, factors)
    plain = inputs @ weight_change(factors).T
    assert_close(fast, plain)
    assert_close(grad(fast.square().sum(), trained, retain_graph=True), grad(plain.square().sum(), trained))


def test_a_gets_no_gradient_while_b_is_zero_and_b_gets_one() -> None:
    inputs, columns, rows, inner = matrices((4, 33), (17, 3), (3, 33), (3, 8))
    inner.requires_grad_()
    outer = torch.zeros(8, 3, dtype=torch.float64, requires_grad=True)
    output = output_change(inputs, cur_factors(columns, cabr_core(inner, outer), rows))
    grad_inner, grad_outer = grad((output - 1).square().sum(), (inner, outer))
    assert (grad_inner == 0).all()
    assert (grad_outer != 0).any()
