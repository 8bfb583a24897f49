"""The scale at which a learning rate means the same everywhere."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close

from secura.numerics.natural_scale import natural_scale, natural_size, sign_step_size, with_unit_rms
from secura.numerics.s_magnorm import Bounded, Paper


def rms(values: torch.Tensor) -> float:
    return values.square().mean().sqrt().item()


def test_a_step_of_random_signs_moves_the_product_by_the_sign_step_size() -> None:
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left, right = draw(33, 5), draw(7, 48)
    moves = []
    for _ in range(400):
        signs = draw(5, 7).sign()
        moves.append((left @ signs @ right).square().mean())
    found = torch.stack(moves).mean().sqrt().item()
    assert found == pytest.approx(sign_step_size(left, right), rel=0.03)  # of 400 draws
    without = torch.stack([(draw(33, 7).sign() @ right).square().mean() for _ in range(400)]).mean().sqrt().item()
    assert without == pytest.approx(sign_step_size(None, right), rel=0.03)


def test_the_natural_size_is_that_of_the_bound_or_a_tenth_of_the_weight() -> None:
    weight = torch.randn(17, 33, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    bound = 0.2 * (weight.abs() + 0.05 * rms(weight))
    assert natural_size(weight, Bounded(tau=0.2, floor=0.05)) == pytest.approx(rms(bound))
    assert natural_size(weight, Paper()) == natural_size(weight, None) == pytest.approx(0.1 * rms(weight))


def test_a_scale_that_no_number_can_hold_is_1() -> None:
    assert natural_scale(2.0, 0.5) == 4.0
    for size, step in ((1.0, 0.0), (0.0, 1.0), (1e300, 1e-300)):
        assert natural_scale(size, step) == 1.0


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_a_factor_begins_at_an_rms_of_1_whatever_its_size(size: float) -> None:
    factor = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)) * size
    assert rms(with_unit_rms(factor)) == pytest.approx(1, rel=1e-5)
    zeros = torch.zeros(2, 3)
    assert_close(with_unit_rms(zeros), zeros)


def test_enormous_weights_have_a_scale_of_their_own() -> None:
    assert natural_scale(0.2e34, 2.0) == pytest.approx(1e33)
    assert natural_scale(0.2, 2e-34) == 1.0  # a factor that is zero, but for rounding
    assert natural_scale(1e34, 1e-4) == 1.0  # no number in float32
