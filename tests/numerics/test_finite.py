import pytest
import torch

from secura.numerics.finite import all_finite

FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_value_that_is_not_finite_is_seen_wherever_it_stands(bad: float, dtype: torch.dtype) -> None:
    if dtype == torch.float8_e4m3fn:
        bad = float("nan")  # it has no infinity
    for place in (0, 500, 998):
        values = torch.ones(999)
        values[place] = bad
        assert not all_finite(values.to(dtype).reshape(27, 37))
        assert not all_finite(values.to(dtype).reshape(27, 37).T)
    assert not all_finite(torch.tensor([bad]).to(dtype))


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_largest_values_are_finite_although_their_squares_are_not(dtype: torch.dtype) -> None:
    values = torch.full((3, 70), torch.finfo(dtype).max, dtype=torch.float64).to(dtype)
    assert all_finite(values)
    assert all_finite(values[:0])
    assert all_finite(torch.zeros((), dtype=dtype))


def test_a_parameter_is_looked_at_without_a_graph() -> None:
    assert all_finite(torch.nn.Parameter(torch.ones(3)))


def test_whole_numbers_and_truths_are_finite() -> None:
    assert all_finite(torch.arange(3))
    assert all_finite(torch.tensor([True, False]))
