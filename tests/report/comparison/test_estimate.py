import math
import statistics

import pytest
from scipy.stats import t

from secura.report.comparison.estimate import Estimate, estimate, meet, standing


def test_the_interval_is_students_over_the_runs() -> None:
    values = [0.9, 0.94, 0.98, 0.91]
    found = estimate(values)
    low, high = t.interval(0.95, 3, loc=statistics.fmean(values), scale=statistics.stdev(values) / 2)
    assert found is not None
    assert (found.mean, found.low, found.high, found.count) == pytest.approx((0.9325, low, high, 4))
    assert found.margin == pytest.approx((high - low) / 2)


def test_an_interval_ends_where_the_number_must() -> None:
    found = estimate([0.99, 1.0], floor=0, ceiling=1)
    assert found is not None
    assert found.high == 1


def test_one_run_has_no_interval_and_none_or_a_nan_no_mean() -> None:
    found = estimate([0.5])
    assert found == Estimate(mean=0.5, low=None, high=None, count=1)
    assert estimate([]) is None
    assert estimate([0.5, float("nan")]) is None


def _of(mean: float, half: float | None) -> Estimate:
    ends = (None, None) if half is None else (mean - half, mean + half)
    return Estimate(mean=mean, low=ends[0], high=ends[1], count=1 if half is None else 3)


def test_the_best_is_clear_only_where_no_interval_meets_its_own() -> None:
    apart = standing({"a": _of(0.5, 0.1), "b": _of(0.9, 0.1)}, lower_is_better=False)
    assert apart is not None
    assert (apart.best, apart.clear) == ("b", True)
    touching = standing({"a": _of(0.5, 0.2), "b": _of(0.9, 0.2)}, lower_is_better=False)
    assert touching is not None
    assert (touching.best, touching.tied, touching.clear) == ("b", ("a",), False)
    assert meet(_of(0.5, 0.2), _of(0.9, 0.2))


def test_lower_may_be_better_and_a_single_run_is_never_told_apart() -> None:
    found = standing({"a": _of(0.5, None), "b": _of(0.9, 0.1), "c": _of(0.2, 0.1)}, lower_is_better=True)
    assert found is not None
    assert (found.best, found.tied, found.unknown, found.clear) == ("c", (), ("a",), False)
    assert standing({"a": _of(0.5, 0.1)}, lower_is_better=True) is None


def test_runs_that_agree_to_the_last_answer_are_known_no_better_than_to_one_answer() -> None:
    kept, lost = (estimate([share] * 2, step=1 / 78) for share in (1.0, 76 / 78))
    assert kept is not None
    assert lost is not None
    half = t.ppf(0.975, 1) / 78 / math.sqrt(12) / math.sqrt(2)
    assert (lost.low, lost.high) == pytest.approx((76 / 78 - half, 76 / 78 + half))
    assert meet(kept, lost)
    apart = estimate([0.2] * 2, step=1 / 78)
    assert apart is not None
    assert not meet(kept, apart)
    assert estimate([0.1, 0.5], step=1 / 78) == estimate([0.1, 0.5])


def test_runs_that_agree_in_a_number_of_unknown_coarseness_are_told_apart_from_nothing() -> None:
    found = standing({"a": _of(1.0, 0.0), "b": _of(0.1, 0.01)}, lower_is_better=False)
    assert found is not None
    assert found.tied == ("b",)
