import json
import math

import pytest

from secura.continual.steering import Steering, kappa_factor, steps_between_looks


def test_a_look_moves_kappa_by_the_square_root_of_what_may_be_lost_over_what_is() -> None:
    # keep 0.98; 3 of 100 lost: 0.02 / (0.03 + 0.005) = 0.571429, whose square root is 0.755929
    assert kappa_factor(0.98, lost=3, items=100) == pytest.approx(0.755929, abs=1e-6)
    # 1 of 100: 0.02 / 0.015 = 1.333333, root 1.154701
    assert kappa_factor(0.98, lost=1, items=100) == pytest.approx(1.154701, abs=1e-6)


def test_a_look_moves_it_by_a_factor_of_e_to_the_0_35_at_most() -> None:
    assert kappa_factor(0.98, lost=100, items=100) == pytest.approx(math.exp(-0.35))
    assert kappa_factor(0.98, lost=0, items=1000) == pytest.approx(math.exp(0.35))


def test_nothing_lost_of_few_questions_gives_little_leave() -> None:
    # 0.02 / (0 + 1/40) = 0.8, root 0.894427: of 20 questions half a one is more than 2 %
    assert kappa_factor(0.98, lost=0, items=20) == pytest.approx(0.894427, abs=1e-6)


@pytest.mark.parametrize(("steps", "between"), [(100, 25), (500, 25), (501, 26), (2000, 100)])
def test_it_looks_every_twentieth_of_the_steps_and_no_more_often_than_every_25(steps: int, between: int) -> None:
    assert steps_between_looks(steps) == between


def test_it_looks_at_due_steps_but_not_after_the_last() -> None:
    steering = Steering(keep=0.98, steps=100)
    assert [step for step in range(101) if steering.is_due(step)] == [25, 50, 75]


def test_it_goes_on_from_its_stored_state() -> None:
    steering = Steering(keep=0.98, steps=100)
    first = steering.look(3, 100)
    other = Steering(keep=0.98, steps=100)
    other.load_state_dict(json.loads(json.dumps(steering.state_dict())))
    assert other == steering
    assert other.look(1, 100) == steering.look(1, 100)
    assert other.factor == pytest.approx(first * kappa_factor(0.98, 1, 100))
    assert (other.looks, other.lost_share) == (2, 0.01)
    with pytest.raises(ValueError, match=r"of keep 0\.98 over 100 steps, not of 0\.95"):
        Steering(keep=0.95, steps=100).load_state_dict(steering.state_dict())


@pytest.mark.parametrize(("keep", "lost", "items"), [(1.0, 0, 10), (-0.1, 0, 10), (0.9, 11, 10), (0.9, 0, 0)])
def test_what_is_out_of_range_is_refused(keep: float, lost: int, items: int) -> None:
    with pytest.raises(ValueError, match=r"keep is|lost is"):
        kappa_factor(keep, lost, items)
