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


def test_kept_is_counted_in_each_family_and_in_all_without_what_was_gained() -> None:
    kept = {family: tally.kept for family, tally in COMPARISON.families.items()}
    assert kept == {"ages": 3 / 4, "sums": 0.0, "words": None}
    assert COMPARISON.total.kept == 3 / 5
    assert (COMPARISON.total.lost, COMPARISON.total.gained) == (2, 1)


def test_flips_are_what_was_right_and_is_wrong_with_both_answers() -> None:
    shown = [(flip.before.question.prompt, flip.before.given, flip.after.given) for flip in COMPARISON.flips]
    assert shown == [("ages 2?", "yes", "x"), ("sums 0?", "yes", "y")]


def test_the_report_is_json_with_every_answer() -> None:
    report = json.loads(json.dumps(before_and_after_as_json(COMPARISON)))
    total = report["total"]
    assert {
        key: total[key] for key in ("family", "asked", "right_before", "right_after", "lost", "gained", "kept")
    } == {
        "family": "all",
        "asked": 8,
        "right_before": 5,
        "right_after": 4,
        "lost": 2,
        "gained": 1,
        "kept": 0.6,
    }
    assert total["kept_interval"][0] < 0.6 < total["kept_interval"][1]
    assert report["confidence"] == 0.95
    assert [family["family"] for family in report["families"]] == ["ages", "sums", "words"]
    assert [flip["prompt"] for flip in report["flips"]] == ["ages 2?", "sums 0?"]
    assert len(report["answers"]) == 8


def test_answers_to_different_questions_are_not_compared() -> None:
    with pytest.raises(ValueError, match="different questions"):
        BeforeAndAfter(before=_answers("r", "ages"), after=_answers("r", "sums"))


def test_the_rule_by_which_an_answer_was_compared_stands_beside_it() -> None:
    question = Question(prompt="days?", answer="7", match="number", accept=("seven",))
    answers = [ScoredAnswer(question=question, given="seven days", correct=True), *_answers("r", "ages")]
    ruled, plain = before_and_after_as_json(BeforeAndAfter(before=answers, after=answers))["answers"]
    assert (ruled["match"], ruled["accept"]) == ("number", ["seven"])
    assert not {"match", "accept"} & plain.keys()
