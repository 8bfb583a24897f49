"""The numbers that a run is judged by: what each is of a record, its unit, and how it is written."""

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, inf
from typing import Literal

from secura.evaluation.tally import together
from secura.experiments.comparison.runs.record import RunRecord
from secura.report.comparison.estimate import Estimate

Unit = Literal["percent", "points", "change", "distance", "nats", "factor"]


_IN_PERCENT = ("percent", "change", "distance")


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One number of a run."""

    key: str
    """Short and fixed, part of file names."""
    title: str
    """What it is, as an axis says it, unit included."""
    unit: Unit
    """Shares of 1 are written in percent, their differences in points, a relative change in percent with a sign and its
    size without; of a factor the logarithm is stored."""
    of: Callable[[RunRecord], float | None]
    """The number of a record, as a share of 1 or in nats; None where it has none."""
    step: Callable[[RunRecord], float] = lambda record: 0.0
    """The difference that one answer makes to it; 0 where it is not of answers, or of how many is not known."""
    lower_is_better: bool = False
    """As for losses and forgetting."""
    floor: float = -inf
    """What it cannot go below."""
    ceiling: float = inf
    """What it cannot go above."""

    @property
    def scale(self) -> float:
        """What a stored number is multiplied by to be written."""
        return 1.0 if self.unit in ("nats", "factor") else 100.0

    def text(self, value: float) -> str:
        """A number in its unit: 97.5 %, +3.2 points, 0.081 nats."""
        if self.unit == "factor":
            return f"{exp(value):.3g}"
        if self.unit == "nats":
            return f"{_minus(f'{value:.3f}')} nats"
        if self.unit == "points":
            return f"{_minus(f'{100 * value:+.1f}')} points"
        if self.unit == "distance":
            return f"{100 * value:.2f}%"
        if self.unit == "change":
            return f"{_minus(f'{100 * value:+.2f}')}%"
        return f"{_minus(f'{100 * value:.1f}')}%"

    def span(self, found: Estimate) -> str:
        """A mean with its interval, or with the remark that it is a single run."""
        if found.low is None or found.high is None:
            return f"{self.text(found.mean)} (n = 1)"
        ends = [self.text(end).removesuffix(" points").removesuffix(" nats") for end in (found.low, found.high)]
        return f"{self.text(found.mean)} ({ends[0]} to {ends[1]}, n = {found.count})"

    def short(self, found: Estimate) -> str:
        """A mean with half its interval, for a table's cell."""
        if self.unit == "factor":
            return self.span(found)
        digits = {"nats": 3, "change": 2, "distance": 2}.get(self.unit, 1)
        sign = "+" if self.unit in ("points", "change") else ""
        middle = _minus(f"{self.scale * found.mean:{sign}.{digits}f}") + ("%" if self.unit in _IN_PERCENT else "")
        if found.margin is None:
            return f"{middle} (n = 1)"
        return f"{middle} ± {self.scale * found.margin:.{digits}f}"


def _minus(text: str) -> str:
    """A minus sign in place of a hyphen, and none before a zero."""
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "−")


def _gained(record: RunRecord) -> float | None:
    if record.gain is None or not record.gain.asked:
        return None
    return (record.gain.after - record.gain.before) / record.gain.asked


def _sequence_gained(record: RunRecord) -> float | None:
    """Mean over the tasks of the last score minus the base model's; None where any is missing."""
    if record.sequence is None:
        return None
    first, last = record.sequence.scores[0], record.sequence.scores[-1]
    pairs = list(zip(first, last, strict=True))
    whole = [(old, new) for old, new in pairs if old is not None and new is not None]
    if not pairs or len(whole) < len(pairs) or len(record.sequence.scores) <= len(record.sequence.tasks):
        return None
    return sum(new - old for old, new in whole) / len(whole)


def _right(record: RunRecord) -> float | None:
    if record.gain is not None and record.gain.asked:
        return record.gain.after / record.gain.asked
    return record.accuracy if record.sequence is None else None


def _nats_fallen(record: RunRecord) -> float | None:
    before, after = record.gain_nats
    return None if before is None or after is None else before - after


def _kept(record: RunRecord) -> float | None:
    return together(record.knowledge.values()).kept


def _one_of_the_new_task(record: RunRecord) -> float:
    return 1 / record.gain.asked if record.gain is not None and record.gain.asked else 0.0


def _one_of_knowledge(record: RunRecord) -> float:
    before = together(record.knowledge.values()).before
    return 1 / before if before and record.sequence is None else 0.0


GAIN = Measure(
    key="gain",
    title="gain on the new task, points",
    unit="points",
    of=_gained,
    step=_one_of_the_new_task,
    floor=-1,
    ceiling=1,
)
GAIN_NATS = Measure(key="gain-nats", title="fall of the new task's loss, nats per token", unit="nats", of=_nats_fallen)
SEQUENCE_GAIN = Measure(
    key="gain", title="gain over all tasks, points", unit="points", of=_sequence_gained, floor=-1, ceiling=1
)
ACCURACY = Measure(
    key="accuracy",
    title="right answers on the new task, %",
    unit="percent",
    of=_right,
    step=_one_of_the_new_task,
    floor=0,
    ceiling=1,
)
NEW_TASK_NATS = Measure(
    key="new-task-nats",
    title="loss on the new task, nats per token",
    unit="nats",
    of=lambda record: record.gain_nats[1],
    lower_is_better=True,
    floor=0,
)
KEPT = Measure(
    key="kept",
    title="knowledge kept, % of base",
    unit="percent",
    of=_kept,
    step=_one_of_knowledge,
    floor=0,
    ceiling=1,
)
FORGETTING = Measure(
    key="forgetting",
    title="forgetting, nats per token",
    unit="nats",
    of=lambda record: record.forgetting_nats,
    lower_is_better=True,
)
