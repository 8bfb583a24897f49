import pytest
import torch
from references import formulas
from torch.testing import assert_close

from secura.numerics.cur_selection import (
    least_active_columns,
    least_active_rows,
    least_important_columns,
    least_important_rows,
    sampled_columns,
    sampled_rows,
)


def gaussian_weight(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(17, 33), (64, 48), (5, 1)])
def test_least_important_columns_and_rows_equal_the_loop_reference(shape: tuple[int, int]) -> None:
    weight = gaussian_weight(*shape)
    count = min(shape)
    assert least_important_columns(weight, count).tolist() == formulas.least_columns(weight.tolist(), count)
    assert least_important_rows(weight, count).tolist() == formulas.least_columns(weight.T.tolist(), count)


def test_columns_of_equal_norm_keep_their_order() -> None:
    weight = torch.tensor([[1.0, -1.0, 0.5, 1.0], [0.0, 0.0, 0.0, 0.0]])
    assert least_important_columns(weight, 4).tolist() == [2, 0, 1, 3]


def test_norms_are_summed_in_float32_or_bfloat16_would_make_the_ranking_a_lottery() -> None:
    weight = gaussian_weight(512, 512).bfloat16()
    in_bfloat16 = torch.linalg.vector_norm(weight, dim=0).unique().numel()
    exact = least_important_columns(weight.double(), 64)
    assert in_bfloat16 < 40
    assert least_important_columns(weight, 64).tolist() == exact.tolist()


def test_a_draw_repeats_under_its_seed_and_never_repeats_a_column() -> None:
    weight = gaussian_weight(20, 30)
    draws = [sampled_columns(weight, 12, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)]
    assert draws[0].tolist() == draws[1].tolist()
    assert draws[0].tolist() != draws[2].tolist()
    assert draws[0].unique().numel() == 12
    rows = sampled_rows(weight, 20, torch.Generator().manual_seed(0))
    assert sorted(rows.tolist()) == list(range(20))


def test_the_first_draw_follows_the_inverse_importance() -> None:
    weight = torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    firsts = torch.tensor([sampled_columns(weight, 1, generator).item() for _ in range(4000)])
    shares = torch.bincount(firsts.long(), minlength=4) / 4000
    expected = torch.tensor(formulas.inverse_importance(weight.tolist()))
    assert_close(shares, expected, atol=0.03, rtol=0)  # 4 standard errors of 4000 draws


def test_a_zero_column_is_drawn_first() -> None:
    weight = gaussian_weight(6, 9)
    weight[:, 4] = 0
    for seed in range(20):
        assert sampled_columns(weight, 2, torch.Generator().manual_seed(seed))[0] == 4


@pytest.mark.parametrize("count", [0, 10])
def test_a_count_outside_the_columns_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=rf"count is {count}, but W has columns 1\.\.9"):
        least_important_columns(gaussian_weight(6, 9), count)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_cannot_be_ranked_is_refused(value: float) -> None:
    weight = gaussian_weight(3, 4)
    weight[1, 2] = value
    with pytest.raises(ValueError, match="NaN or infinity"):
        least_important_columns(weight, 2)
    with pytest.raises(ValueError, match="NaN or infinity"):
        sampled_rows(weight, 2, torch.Generator().manual_seed(0))


def test_least_active_columns_and_rows_are_ranked_by_what_they_add_and_answer() -> None:
    weight = torch.tensor([[3.0, 0.0, 1.0], [4.0, 0.5, 0.0]])  # norms 5, 0.5, 1
    squares = torch.tensor([0.01, 100.0, 4.0], dtype=torch.float64)  # roots 0.1, 10, 2: shares 0.5, 5, 2
    assert least_active_columns(weight, squares, 2).tolist() == [0, 2]
    assert least_active_rows(torch.tensor([4.0, 1.0, 1.0, 9.0], dtype=torch.float64), 3).tolist() == [1, 2, 0]


@pytest.mark.parametrize("count", [0, 4])
def test_a_count_of_active_columns_or_rows_that_cannot_be_is_refused(count: int) -> None:
    squares = torch.ones(3, dtype=torch.float64)
    with pytest.raises(ValueError, match=f"count is {count}, but W has columns 1..3"):
        least_active_columns(torch.ones(2, 3), squares, count)
    with pytest.raises(ValueError, match=f"count is {count}, but W has rows 1..3"):
        least_active_rows(squares, count)


@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-39, 1e-30, 1e25, 3e38])
def test_a_weight_of_zeros_or_of_the_smallest_or_largest_numbers_can_be_drawn_from(size: float) -> None:
    weight = torch.full((6, 9), size)
    drawn = sampled_columns(weight, 9, torch.Generator().manual_seed(0))
    assert sorted(drawn.tolist()) == list(range(9))


@pytest.mark.parametrize("scale", [1e-120, 1e200])
def test_small_and_large_numbers_are_drawn_and_ranked_by_their_shares(scale: float) -> None:
    weight = gaussian_weight(6, 9).double()
    scaled, plain = (sampled_columns(each, 4, torch.Generator().manual_seed(0)) for each in (weight * scale, weight))
    assert torch.equal(scaled, plain)
    if scale > 1:
        assert torch.equal(least_important_columns(weight * scale, 9), least_important_columns(weight, 9))
