import json

import pytest

from secura.evaluation.retention import BeforeAndAfter, before_and_after_as_json
from secura.evaluation.scoring import ScoredAnswer
from secura.tasks.question import Question


def _answers(pattern: str, family: str) -> list[ScoredAnswer]:
    """One answer a letter: `r` is right, any other wrong."""
    return [
        ScoredAnswer(
            question=Question(prompt=f"{family} {index}?", answer="yes", family=family),
            given="yes" if letter == "r" else letter,
            correct=letter == "r",
        )
        for index, letter in enumerate(pattern)
    ]


COMPARISON = BeforeAndAfter(
    before=[*_answers("rrrr", "ages"), *_answers("rx", "sums"), *_answers("xx", "words")],
    after=[*_answers("rrxr", "ages"), *_answers("yr", "sums"), *_answers("xx", "words")],
)


def test_kept_is_right_after_over_right_before_in_each_family_and_in_all() -> None:
    kept = {tally.family: tally.kept for tally in COMPARISON.families}
    assert kept == {"ages": 3 / 4, "sums": 1.0, "words": None}
    assert COMPARISON.total.kept == 4 / 5


def test_flips_are_what_was_right_and_is_wrong_with_both_answers() -> None:
    shown = [(flip.before.question.prompt, flip.before.given, flip.after.given) for flip in COMPARISON.flips]
    assert shown == [("ages 2?", "yes", "x"), ("sums 0?", "yes", "y")]


def test_the_report_is_json_with_every_answer() -> None:
    report = json.loads(json.dumps(before_and_after_as_json(COMPARISON)))
    assert report["total"] == {"family": "all", "asked": 8, "right_before": 5, "right_after": 4, "kept": 0.8}
    assert [flip["prompt"] for flip in report["flips"]] == ["ages 2?", "sums 0?"]
    assert len(report["answers"]) == 8


def test_answers_to_different_questions_are_not_compared() -> None:
    with pytest.raises(ValueError, match="different questions"):
        BeforeAndAfter(before=_answers("r", "ages"), after=_answers("r", "sums"))
