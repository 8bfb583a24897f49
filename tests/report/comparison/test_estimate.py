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
