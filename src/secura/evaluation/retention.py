"""What a model still knows after training: the same questions, asked before and after."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from secura.evaluation.answer_match import rule_as_json
from secura.evaluation.scoring import ScoredAnswer
from secura.evaluation.tally import CONFIDENCE, Tally, tally_as_json


@dataclass(frozen=True, kw_only=True)
class LostAnswer:
    """A question that was answered right before training and wrong after it."""

    before: ScoredAnswer
    """The base model's answer."""
    after: ScoredAnswer
    """The trained model's answer."""


@dataclass(frozen=True, kw_only=True)
class BeforeAndAfter:
    """Scores of the same questions before and after training."""

    before: Sequence[ScoredAnswer]
    """The base model's answers."""
    after: Sequence[ScoredAnswer]
    """The trained model's answers, in the same order."""

    def __post_init__(self) -> None:
        if [each.question for each in self.before] != [each.question for each in self.after]:
            raise ValueError("before and after answer different questions, so they cannot be compared.")

    @property
    def total(self) -> Tally:
        """All questions together, each counting once."""
        return self._tally(range(len(self.before)))

    @property
    def families(self) -> dict[str, Tally]:
        """One tally for each family, in the order in which they first appear."""
        members: dict[str, list[int]] = {}
        for index, answer in enumerate(self.before):
            members.setdefault(answer.question.family, []).append(index)
        return {family: self._tally(indices) for family, indices in members.items()}

    @property
    def flips(self) -> list[LostAnswer]:
        """What flipped from right to wrong, in the order asked."""
        pairs = zip(self.before, self.after, strict=True)
        return [LostAnswer(before=old, after=new) for old, new in pairs if old.correct and not new.correct]

    def _tally(self, indices: Sequence[int]) -> Tally:
        return Tally.of_answers(
            [self.before[index].correct for index in indices], [self.after[index].correct for index in indices]
        )


def before_and_after_as_json(comparison: BeforeAndAfter) -> dict[str, Any]:
    """All of a comparison as JSON: totals, families, flips, and every answer."""
    return {
        "confidence": CONFIDENCE,
        "total": {"family": "all", **tally_as_json(comparison.total)},
        "families": [{"family": family, **tally_as_json(tally)} for family, tally in comparison.families.items()],
        "flips": [
            {
                "family": flip.before.question.family,
                "prompt": flip.before.question.prompt,
                "right": flip.before.question.answer,
                "before": flip.before.given,
                "after": flip.after.given,
            }
            for flip in comparison.flips
        ],
        "answers": [
            {
                "family": old.question.family,
                "prompt": old.question.prompt,
                "right": old.question.answer,
                **({"choices": list(old.question.choices)} if old.question.choices else {}),
                **rule_as_json(old.question),
                "before": old.given,
                "after": new.given,
                "right_before": old.correct,
                "right_after": new.correct,
            }
            for old, new in zip(comparison.before, comparison.after, strict=True)
        ],
    }
