import pytest

from secura.experiments.comparison.query.seed_means import mean_over_seeds


def test_the_interval_is_students_t_over_the_seeds() -> None:
    three = mean_over_seeds([0.8, 0.9, 1.0])
    # 0.9 ± 4.302653 · 0.1 / √3, the quantile from a printed table
    assert three.mean == pytest.approx(0.9)
    assert three.half_width == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-6)
    assert three.count == 3


def test_one_seed_has_a_mean_and_no_interval() -> None:
    one = mean_over_seeds([0.5])
    assert (one.mean, one.half_width, one.count) == (0.5, None, 1)


def test_no_seed_has_no_mean() -> None:
    with pytest.raises(ValueError, match="no value"):
        mean_over_seeds([])
