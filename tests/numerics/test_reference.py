from functools import partial

import pytest
import torch
from references import formulas
from torch.testing import assert_close

from secura.numerics.change import ThinFactors, weight_change
from secura.numerics.reference import kept_reference, undamped_reference
from secura.numerics.s_magnorm import Bounded, Paper, WeightNorm

NORMS: list[WeightNorm] = [Bounded(tau=0.5, floor=0.05), Paper()]


def weight_and_folds(count: int = 3) -> tuple[torch.Tensor, list[ThinFactors]]:
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return draw(17, 33), [ThinFactors(draw(17, 3), draw(3, 33)) for _ in range(count)]


@pytest.mark.parametrize("norm", NORMS)
def test_a_kept_fold_leaves_the_effective_weight_as_it_was_to_the_bit(norm: WeightNorm) -> None:
    weight, folds = weight_and_folds()
    for count, current in enumerate(folds):
        before, _ = norm.constrain_with_slope_(kept_reference(weight, folds[:count], norm), weight_change(current))
        reference = kept_reference(weight, folds[: count + 1], norm)
        after = norm.constrain(reference, torch.zeros_like(reference))
        assert torch.equal(before, after)


def test_kept_folds_compose_as_the_loop_reference_does() -> None:
    weight, folds = weight_and_folds()
    expected = weight.tolist()
    for left, right in folds:
        expected = formulas.bounded(expected, formulas.product(left.tolist(), right.tolist()), 0.5, 0.05)
    assert_close(kept_reference(weight, folds, NORMS[0]), torch.tensor(expected, dtype=torch.float64))


def test_undamped_folds_add_the_changes_without_the_norm() -> None:
    weight, folds = weight_and_folds()
    expected = weight.tolist()
    for left, right in folds:
        expected = formulas.add(expected, formulas.product(left.tolist(), right.tolist()))
    assert_close(undamped_reference(weight, folds), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("norm", NORMS)
def test_an_undamped_fold_undoes_the_damping_all_at_once(norm: WeightNorm) -> None:
    weight, (current,) = weight_and_folds(1)
    before = norm.constrain(weight, weight_change(current))
    after = undamped_reference(weight, [current])
    assert (after - weight).norm() > 1.5 * (before - weight).norm()


@pytest.mark.parametrize("norm", NORMS)
def test_leaving_a_fold_out_is_as_if_it_had_never_been(norm: WeightNorm) -> None:
    weight, folds = weight_and_folds()
    assert torch.equal(kept_reference(weight, [], norm), weight)
    assert torch.equal(
        kept_reference(weight, [folds[0], folds[2]], norm),
        kept_reference(kept_reference(weight, folds[:1], norm), folds[2:], norm),
    )


def test_the_pretrained_weight_is_never_written() -> None:
    weight, folds = weight_and_folds()
    copy = weight.clone()
    kept_reference(weight, folds, NORMS[0]).add_(1)
    undamped_reference(weight, folds).add_(1)
    assert torch.equal(weight, copy)


def test_a_bfloat16_weight_gets_a_float32_reference_that_keeps_small_folds() -> None:
    weight = torch.ones(4, 4, dtype=torch.bfloat16)
    small = ThinFactors(torch.full((4, 1), 1e-3), torch.ones(1, 4))
    assert_close(undamped_reference(weight, [small] * 3), torch.full((4, 4), 1.003))
