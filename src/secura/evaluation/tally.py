"""Right answers before and after training, and what was kept of them: the one definition of *kept*.

    kept = (right before − lost) / right before        lost: right before, wrong after

A share from 0 to 1: of what the base model answered right, what is still answered right. What
was gained (wrong before, right after) is counted beside it and makes up for nothing, since an
answer learned does not bring back another one that was lost.

Each question the base answers right is either kept or lost, so the interval is the exact one
of a share, by Clopper and Pearson. It is formed here and nowhere else.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from secura.evaluation.significance import Interval, fewest_significant_flips, share_interval

CONFIDENCE = 0.95
"""Of an interval of what was kept, unless a command is told another."""

TOO_FEW = "too few to tell"
"""What stands in place of a share where so few questions say nothing."""


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Right answers to one group of questions, before and after."""

    asked: int
    """How many questions were asked."""
    before: int
    """How many the base model answered right."""
    after: int
    """How many the trained model answers right."""
    lost: int
    """How many were right before and are wrong after."""

    @classmethod
    def of_answers(cls, before: Sequence[bool], after: Sequence[bool]) -> Self:
        """Count answers to the same questions.

        Args:
            before: whether the base model answers each question right.
            after: the same for the trained model, in the same order.
        """
        lost = sum(old and not new for old, new in zip(before, after, strict=True))
        return cls(asked=len(before), before=sum(before), after=sum(after), lost=lost)

    @classmethod
    def of_totals(cls, *, asked: int, before: int, after: int) -> Self:
        """What is known where answers were not paired, as in older records: the fewest that can have been lost."""
        return cls(asked=asked, before=before, after=after, lost=max(0, before - after))

    @property
    def gained(self) -> int:
        """How many were wrong before and are right after."""
        return self.after - self.before + self.lost

    @property
    def kept(self) -> float | None:
        """Of those right before, the share still right; None where none was."""
        return (self.before - self.lost) / self.before if self.before else None

    def interval(self, confidence: float = CONFIDENCE) -> Interval | None:
        """Interval of `kept`; None where nothing was right before."""
        return share_interval(self.before - self.lost, self.before, confidence=confidence) if self.before else None

    def too_few(self, confidence: float = CONFIDENCE) -> bool:
        """Whether not even losing every right answer would be significant: below 6 of them at 0.95."""
        return self.before < fewest_significant_flips(1 - confidence)


def together(tallies: Iterable[Tally]) -> Tally:
    """All groups as one, each question counting once."""
    every = list(tallies)
    return Tally(
        asked=sum(each.asked for each in every),
        before=sum(each.before for each in every),
        after=sum(each.after for each in every),
        lost=sum(each.lost for each in every),
    )


def percent(share: float) -> str:
    """A share in percent, rounded down: 97.96 % must not read as 98.0 %, nor 99.96 % as all of it."""
    return f"{math.floor(share * 1000 + 1e-9) / 10:.1f}%"


def limit_text(share: float) -> str:
    """A limit in percent, as the user gave it."""
    return f"{100 * share:.6g}%"


def kept_cell(tally: Tally, confidence: float = CONFIDENCE) -> str:
    """What was kept, for a cell of a table."""
    if tally.kept is None:
        return "knew none"
    return TOO_FEW if tally.too_few(confidence) else percent(tally.kept)


def at_least_cell(tally: Tally, confidence: float = CONFIDENCE) -> str:
    """The lower end of that interval, for a table that has no room for both."""
    interval = tally.interval(confidence)
    return "" if interval is None or tally.too_few(confidence) else percent(interval.low)


def interval_cell(tally: Tally, confidence: float = CONFIDENCE) -> str:
    """The interval of what was kept, for a cell of a table; empty where too few questions say nothing."""
    interval = tally.interval(confidence)
    if interval is None or tally.too_few(confidence):
        return ""
    return f"{percent(interval.low)} to {percent(interval.high)}"


def kept_phrase(tally: Tally, confidence: float = CONFIDENCE) -> str:
    """What was kept with its interval, for a sentence: `99.0% (95% interval 97.8% to 99.7%)`."""
    interval = interval_cell(tally, confidence)
    return kept_cell(tally, confidence) + (f" ({100 * confidence:g}% interval {interval})" if interval else "")


def tally_as_json(tally: Tally, confidence: float = CONFIDENCE) -> dict[str, Any]:
    """A tally as JSON, with what was kept and its interval; both null where nothing was right before."""
    interval = tally.interval(confidence)
    return {
        "asked": tally.asked,
        "right_before": tally.before,
        "right_after": tally.after,
        "lost": tally.lost,
        "gained": tally.gained,
        "kept": tally.kept,
        "kept_interval": None if interval is None else [interval.low, interval.high],
        "too_few_to_tell": tally.too_few(confidence),
    }
