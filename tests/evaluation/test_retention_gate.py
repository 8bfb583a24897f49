import math
import random

import pytest

from secura.errors import ConfigError
from secura.evaluation.retention_gate import Verdict, check_gate_can_open, judge, questions_needed
from secura.evaluation.tally import Tally


def _kept(before: int, lost: int, gained: int = 0, asked: int | None = None) -> Tally:
    return Tally(asked=asked or before + gained, before=before, after=before - lost + gained, lost=lost)


def _judge(kept: Tally, limit: float, confidence: float = 0.95) -> Verdict:
    return judge({"all": kept}, limit, ask_more="ask more", confidence=confidence)


@pytest.mark.parametrize(("limit", "confidence"), [(0.98, 0.95), (0.9, 0.95), (0.98, 0.99), (0.5, 0.8)])
def test_the_questions_needed_are_the_fewest_that_open_the_gate(limit: float, confidence: float) -> None:
    needed = questions_needed(limit, confidence)
    assert _judge(_kept(needed, lost=0), limit, confidence).passed
    assert not _judge(_kept(needed - 1, lost=0), limit, confidence).passed
    check_gate_can_open(limit, needed, ask_more="ask more", confidence=confidence)
    with pytest.raises(ConfigError, match=rf"that takes {needed}; ask more"):
        check_gate_can_open(limit, needed - 1, ask_more="ask more", confidence=confidence)


def test_183_questions_are_needed_for_98_percent() -> None:
    assert questions_needed(0.98, 0.95) == 183


@pytest.mark.ci
def test_a_model_that_keeps_just_the_limit_seldom_passes() -> None:
    draw, passed, trials = random.Random(0), 0, 1000
    for _ in range(trials):
        lost = sum(draw.random() < 0.02 for _ in range(300))
        passed += _judge(_kept(300, lost=lost), 0.98).passed
    assert passed / trials < 0.025


def test_a_model_that_lost_next_to_nothing_passes() -> None:
    assert _judge(_kept(1500, lost=10), 0.98).passed


def test_gains_open_no_gate() -> None:
    assert not _judge(_kept(1000, lost=300, gained=300, asked=2000), 0.98).passed


@pytest.mark.parametrize(
    ("kept", "passed", "says"),
    [
        (
            _kept(1000, lost=2),
            True,
            "passes: kept 99.8% of what the base knew (95% interval 99.2% to 99.9%), at least 98%",
        ),
        (_kept(1000, lost=300), False, "all of it below 98%"),
        (_kept(1000, lost=25), False, "less than 98%"),
        (_kept(1000, lost=15), False, "cannot be told from less than 98%; to tell, ask more"),
        (_kept(20, lost=0), False, "too few to tell: the base model answers 20 questions right, and 183 are the least"),
        (_kept(3, lost=3), False, "kept 0.0% of what the base knew (95% interval 0.0% to 70.7%), all of it below 98%"),
        (_kept(0, lost=0, asked=50), False, "the base model answered no question right"),
    ],
)
def test_the_reason_says_what_was_compared(kept: Tally, passed: bool, says: str) -> None:
    verdict = _judge(kept, 0.98)
    assert verdict.passed is passed
    assert says in verdict.reason
    assert verdict.sentence == f"gate at 98%: {verdict.reason}"


def test_the_limit_is_shown_as_it_was_given() -> None:
    assert "gate at 99.95%: fails" in _judge(_kept(1000, lost=300), 0.9995).sentence


def test_one_broken_group_among_many_sound_ones_fails_and_is_named() -> None:
    sound, broken = _kept(10_000, lost=60), _kept(60, lost=55)
    assert judge({"homes": sound}, 0.98, ask_more="ask more").passed
    verdict = judge({"homes": sound, "sums": _kept(60, lost=30), "older": broken}, 0.98, ask_more="ask more")
    assert not verdict.passed
    assert "but older kept 8.3% (2.7% to 18.3%), sums kept 50.0%" in verdict.reason
    assert verdict.reason.endswith("surely less than 98%")


def test_a_group_that_may_be_above_the_limit_does_not_fail_by_itself() -> None:
    assert judge({"homes": _kept(10_000, lost=60), "older": _kept(200, lost=6)}, 0.98, ask_more="ask more").passed


def test_among_many_groups_bad_luck_in_one_is_expected() -> None:
    # 3 lost of 22 alone is below 98 % for sure at 0.95; among 20 groups it is not.
    unlucky, sound = _kept(22, lost=3), _kept(2_000, lost=2)
    assert not judge({"road": unlucky, "homes": sound}, 0.98, ask_more="ask more").passed
    many = {f"group {number}": sound for number in range(20)}
    assert judge({"road": unlucky, **many}, 0.98, ask_more="ask more").passed


@pytest.mark.parametrize("limit", [-0.1, 1.0, math.nan])
def test_a_limit_that_nothing_could_show_is_refused(limit: float) -> None:
    with pytest.raises(ValueError, match="it must be at least 0 and below 1"):
        questions_needed(limit, 0.95)
