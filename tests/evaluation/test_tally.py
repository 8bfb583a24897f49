import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from secura.evaluation.tally import (
    TOO_FEW,
    Tally,
    at_least_cell,
    interval_cell,
    kept_cell,
    kept_phrase,
    percent,
    tally_as_json,
    together,
)


def _tally(before: int, lost: int, gained: int = 0, asked: int | None = None) -> Tally:
    return Tally(asked=asked or before + gained, before=before, after=before - lost + gained, lost=lost)


def test_kept_is_what_was_right_and_still_is_and_gains_are_counted_beside_it() -> None:
    tally = Tally.of_answers([True] * 4 + [False] * 6, [True] * 3 + [False] + [True] * 2 + [False] * 4)
    assert (tally.asked, tally.before, tally.after, tally.lost, tally.gained) == (10, 4, 5, 1, 2)
    assert tally.kept == 3 / 4  # 5 / 4 would be right after over right before


def test_two_right_where_one_was_is_no_more_than_all_kept() -> None:
    assert Tally.of_answers([True] + [False] * 9, [True] * 2 + [False] * 8).kept == 1.0
    assert Tally.of_answers([True] + [False] * 9, [False] * 9 + [True]).kept == 0.0


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60))
def test_kept_and_its_interval_are_shares(pairs: list[tuple[bool, bool]]) -> None:
    tally = Tally.of_answers([old for old, _ in pairs], [new for _, new in pairs])
    interval = tally.interval()
    if not tally.before:
        assert tally.kept is None
        assert interval is None
        return
    assert tally.kept is not None
    assert interval is not None
    assert 0 <= interval.low <= tally.kept <= interval.high <= 1
    assert (tally.gained >= 0, tally.lost <= tally.before) == (True, True)


@pytest.mark.parametrize("right", [6, 98, 500])
def test_answers_that_all_stayed_the_same_still_leave_doubt(right: int) -> None:
    interval = _tally(right, lost=0).interval()
    assert interval is not None
    assert (interval.low, interval.high) == (pytest.approx(0.025 ** (1 / right)), 1.0)


@pytest.mark.ci
@pytest.mark.parametrize("right", [30, 100, 500])
@pytest.mark.parametrize("true_loss", [0.005, 0.02, 0.1])
def test_what_was_kept_is_shown_too_high_no_more_often_than_claimed(right: int, true_loss: float) -> None:
    """Exact probabilities: how often the lower end lies above the truth, of 2.5 % that may."""
    too_high = 0.0
    for lost in range(right + 1):
        interval = _tally(right, lost=lost).interval()
        assert interval is not None
        if interval.low > 1 - true_loss:
            too_high += binom.pmf(lost, right, true_loss)
    assert too_high <= 0.025


def test_groups_are_added_up_question_by_question() -> None:
    whole = together([_tally(10, lost=1), _tally(90, lost=0, gained=5)])
    assert (whole.asked, whole.before, whole.after, whole.lost, whole.kept) == (105, 100, 104, 1, 0.99)
    assert together([]).kept is None


def test_of_totals_alone_the_fewest_losses_are_known_and_gains_make_nothing_more_than_kept() -> None:
    assert Tally.of_totals(asked=20, before=16, after=8).kept == 0.5
    assert Tally.of_totals(asked=10, before=1, after=2).kept == 1.0


def test_below_six_right_answers_there_are_too_few_to_tell() -> None:
    # Losing all of 5 has p = 2 · ½⁵ = 0.06.
    few, enough = _tally(5, lost=0, asked=40), _tally(6, lost=0, asked=40)
    assert (kept_cell(few), interval_cell(few), at_least_cell(few), kept_phrase(few)) == (TOO_FEW, "", "", TOO_FEW)
    assert (kept_cell(enough), interval_cell(enough)) == ("100.0%", "54.0% to 100.0%")
    assert few.too_few(0.95)
    assert not few.too_few(0.9)


def test_the_words_have_the_share_and_its_interval() -> None:
    tally = _tally(1000, lost=4)
    assert kept_phrase(tally) == "99.6% (95% interval 98.9% to 99.8%)"
    assert at_least_cell(tally) == "98.9%"
    assert kept_phrase(tally, 0.8) == "99.6% (80% interval 99.2% to 99.8%)"
    assert kept_cell(_tally(0, lost=0, asked=5)) == "knew none"


def test_shares_are_rounded_down_so_that_no_failure_reads_as_the_limit() -> None:
    assert [percent(share) for share in (0.9796, 0.9999, 1.0)] == ["97.9%", "99.9%", "100.0%"]


def test_the_json_holds_counts_share_and_interval() -> None:
    stored = tally_as_json(_tally(4, lost=1, gained=2, asked=10))
    low, high = stored.pop("kept_interval")
    assert stored == {
        "asked": 10,
        "right_before": 4,
        "right_after": 5,
        "lost": 1,
        "gained": 2,
        "kept": 0.75,
        "too_few_to_tell": True,
    }
    assert math.isclose(1 - high, 0.0063, abs_tol=1e-4)  # of 4 one lost: 0.0063 to 0.8059 in the tables
    assert math.isclose(1 - low, 0.8059, abs_tol=1e-4)
    assert tally_as_json(_tally(0, lost=0, asked=3))["kept_interval"] is None
