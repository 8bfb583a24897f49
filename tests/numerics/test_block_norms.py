"""Norms summed a block of rows at a time, held to sums in plain Python."""

import math

import pytest
import torch

from secura.numerics.block_norms import column_norms, root_mean_square


def _weight(rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (200, 3), (64, 64), (65, 129)])
def test_columns_of_a_weight_and_of_its_transpose_have_the_norms_that_a_loop_finds(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    weight = _weight(*shape, dtype)
    for each in (weight, weight.T, weight[::2], weight[:, ::2]):
        expected = [math.sqrt(math.fsum(value * value for value in column)) for column in each.T.tolist()]
        found = column_norms(each, torch.promote_types(dtype, torch.float32))
        assert found.dtype == torch.promote_types(dtype, torch.float32)
        assert found.tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (200, 3), (65, 129)])
def test_the_rms_is_that_of_a_loop(shape: tuple[int, int], dtype: torch.dtype) -> None:
    weight = _weight(*shape, dtype)
    for each in (weight, weight.T, weight[::2]):
        values = each.flatten().tolist()
        expected = math.sqrt(math.fsum(value * value for value in values) / len(values))
        assert root_mean_square(each) == pytest.approx(expected, rel=1e-12)
        assert root_mean_square(each, of=torch.neg) == root_mean_square(each)
        assert root_mean_square(each, of=lambda rows: 2 * rows) == pytest.approx(2 * expected, rel=1e-12)


@pytest.mark.parametrize("size", [1e-37, 1e37])
def test_the_rms_holds_where_squares_in_float32_do_not(size: float) -> None:
    assert root_mean_square(torch.full((65, 3), size)) == pytest.approx(size, rel=1e-6)
