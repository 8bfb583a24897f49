import math
import random

import pytest

from secura.evaluation.retention_gate import judge, knowledge_kept, percent, questions_needed


def _kept(before: int, lost: int, gained: int = 0, asked: int | None = None, confidence: float = 0.95):
    wrong = (asked or before + gained) - before
    old = [True] * before + [False] * wrong
    new = [False] * lost + [True] * (before - lost) + [True] * gained + [False] * (wrong - gained)
    return knowledge_kept(old, new, confidence=confidence)


def test_kept_is_right_after_over_right_before_gains_included() -> None:
    kept = _kept(100, lost=10, gained=5, asked=200)
    assert (kept.asked, kept.before, kept.after, kept.lost, kept.gained) == (200, 100, 95, 10, 5)
    assert kept.share == 0.95
    assert kept.low is not None
    assert kept.high is not None
    assert kept.low < 0.95 < kept.high


def test_the_interval_ends_where_all_would_be_right() -> None:
    assert _kept(40, lost=0, asked=41).high == 41 / 40


@pytest.mark.parametrize("count", [20, 98, 500])
def test_answers_that_all_stayed_the_same_still_leave_doubt(count: int) -> None:
    assert _kept(count, lost=0).low == pytest.approx(0.025 ** (1 / count))


@pytest.mark.parametrize(("limit", "confidence"), [(0.98, 0.95), (0.9, 0.95), (0.98, 0.99), (0.5, 0.8)])
def test_the_questions_needed_are_the_fewest_that_open_the_gate(limit: float, confidence: float) -> None:
    needed = questions_needed(limit, confidence)
    assert judge(_kept(needed, lost=0, confidence=confidence), limit, {}).passed
    assert not judge(_kept(needed - 1, lost=0, confidence=confidence), limit, {}).passed


def test_183_questions_are_needed_for_98_percent() -> None:
    assert questions_needed(0.98, 0.95) == 183


def test_a_model_that_keeps_just_the_limit_seldom_passes() -> None:
    draw, passed, trials = random.Random(0), 0, 1000
    for _ in range(trials):
        lost = sum(draw.random() < 0.02 for _ in range(300))
        passed += judge(_kept(300, lost=lost), 0.98, {}).passed
    assert passed / trials < 0.025


def test_a_model_that_lost_next_to_nothing_passes() -> None:
    assert judge(_kept(1500, lost=10), 0.98, {}).passed


@pytest.mark.parametrize(
    ("kept", "passed", "says"),
    [
        (
            _kept(1000, lost=2),
            True,
            "passes: kept 99.8% of what the base knew (95% interval 99.2% to 100.0%), at least",
        ),
        (_kept(1000, lost=300), False, "all of it below 98.0%"),
        (_kept(1000, lost=25), False, "less than 98.0%"),
        (_kept(1000, lost=15), False, "cannot be told from less than 98.0%; ask more questions with --count"),
        (_kept(20, lost=0), False, "(183 that the base answers right are the least, here are 20)"),
        (_kept(0, lost=0, asked=50), False, "the base model answered no question right"),
    ],
)
def test_the_reason_says_what_was_compared(kept, passed: bool, says: str) -> None:
    verdict = judge(kept, 0.98, {})
    assert verdict.passed is passed
    assert says in verdict.reason


def test_one_broken_task_among_many_sound_ones_fails() -> None:
    pooled, broken = _kept(10_000, lost=60), _kept(60, lost=55)
    assert judge(pooled, 0.98, {}).passed
    verdict = judge(pooled, 0.98, {"older": broken})
    assert not verdict.passed
    assert "older kept 8.3%" in verdict.reason


def test_a_task_that_lost_a_little_and_may_be_above_the_limit_does_not_fail_by_itself() -> None:
    assert judge(_kept(10_000, lost=60), 0.98, {"older": _kept(200, lost=6)}).passed


def test_shares_are_rounded_down_so_that_no_failure_reads_as_the_limit() -> None:
    assert [percent(share) for share in (0.9796, 0.9999, 1.0, None)] == ["97.9%", "99.9%", "100.0%", "nothing"]


@pytest.mark.parametrize("limit", [-0.1, 1.0, math.nan])
def test_a_limit_that_nothing_could_show_is_refused(limit: float) -> None:
    with pytest.raises(ValueError, match="limit is"):
        questions_needed(limit, 0.95)
