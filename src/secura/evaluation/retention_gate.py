"""Whether enough knowledge was kept: a gate that neither luck nor too few questions can open.

Compared is the lower end of the interval of knowledge kept with the limit. With a confidence
of 0.95 a model that keeps less than the limit passes in about one run of 40 at most, and a
model that keeps just the limit does not pass either: the limit is what must be shown.

The interval is `kept_interval`'s, with one reserve. Where nothing flipped that formula is
narrow: 98 unchanged answers give a lower end of 98 %, though a model that loses 2 % leaves 98
answers unchanged in one run of 7. The lower end is therefore the lesser of the formula's and

    1 − u + gained / right before,   u the Clopper-Pearson upper bound of lost / right before

which for n unchanged answers is (α/2)^(1/n), α = 1 − confidence. So the gate needs at least
ln(α/2) / ln(limit) questions that the base answers right: 183 for a limit of 0.98 at 0.95.

All questions count alike, so one broken task may drown in many sound ones. The gate therefore
also fails if one task lost significantly and the whole of its own interval is below the limit.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy import stats

from secura.evaluation.significance import kept_interval


@dataclass(frozen=True, kw_only=True)
class Kept:
    """How much of what the base answers right is still answered right, gains included."""

    asked: int
    """Questions asked."""
    before: int
    """Of these, right by the base model."""
    after: int
    """Of these, right by the tuned model."""
    lost: int
    """Right before and wrong after."""
    gained: int
    """Wrong before and right after."""
    low: float | None
    """Lower end of the interval of `share`; None where the base knew nothing."""
    high: float | None
    """Upper end."""
    confidence: float
    """Of the interval, both ends together."""

    @property
    def share(self) -> float | None:
        """After as a share of before, as `secura train` counts it; None where the base knew nothing."""
        return self.after / self.before if self.before else None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the gate says."""

    passed: bool
    """Whether enough was kept."""
    limit: float
    """The share that was to be kept."""
    reason: str
    """One sentence: what was compared with what."""


def knowledge_kept(before: Sequence[bool], after: Sequence[bool], *, confidence: float) -> Kept:
    """Count what was kept of the same questions, answered by both models.

    Args:
        before: whether the base model answers each question right.
        after: the same for the tuned model, in the same order.
        confidence: of the interval, such as 0.95.
    """
    right = sum(before)
    lost = sum(old and not new for old, new in zip(before, after, strict=True))
    gained = sum(after) - right + lost
    low = high = None
    interval = kept_interval(before, after, binary=True, confidence=confidence) if before else None
    if interval is not None:
        low = min(interval.low, 1 - _upper_bound(lost, right, confidence) + gained / right)
        high = min(interval.high, len(before) / right)  # no more than all can be right
    return Kept(
        asked=len(before),
        before=right,
        after=sum(after),
        lost=lost,
        gained=gained,
        low=low,
        high=high,
        confidence=confidence,
    )


def _upper_bound(count: int, of: int, confidence: float) -> float:
    """Clopper-Pearson upper bound of a share, of the two-sided interval."""
    return 1.0 if count == of else float(stats.beta.ppf((1 + confidence) / 2, count + 1, of - count))


def questions_needed(limit: float, confidence: float) -> int:
    """How many questions the base must answer right before the gate can open at all."""
    if not 0 <= limit < 1:
        raise ValueError(f"limit is {limit}; it is a share from 0 and below 1.")
    if limit == 0:
        return 1
    return max(1, math.ceil(math.log((1 - confidence) / 2) / math.log(limit)))


def judge(kept: Kept, limit: float, broken: Mapping[str, Kept]) -> Verdict:
    """Say whether enough was kept.

    Args:
        kept: over all questions.
        limit: the share that must be kept.
        broken: tasks that lost significantly, each with what it kept.
    """
    share, low, high = kept.share, kept.low, kept.high
    if share is None or low is None or high is None:
        return Verdict(
            passed=False, limit=limit, reason="fails: the base model answered no question right, so nothing can be kept"
        )
    wanted = percent(limit)
    gone = [
        f"{name} kept {percent(own.share)} ({_interval(own)})"
        for name, own in broken.items()
        if own.share is not None and own.high is not None and own.high < limit
    ]
    named = f"; {_listed(gone)}" if gone else ""
    shown = f"kept {percent(share)} of what the base knew ({100 * kept.confidence:g}% interval {_interval(kept)})"
    if high < limit:
        said = f"fails: {shown}, all of it below {wanted}{named}"
    elif share < limit:
        said = f"fails: {shown}, less than {wanted}{named}"
    elif low < limit:
        needed = questions_needed(limit, kept.confidence)
        few = f" ({needed:,} that the base answers right are the least, here are {kept.before:,})"
        said = (
            f"fails: {shown}, which cannot be told from less than {wanted}{named}; "
            f"ask more questions with --count{few if kept.before < needed else ''}"
        )
    elif gone:
        said = f"fails: {shown}, but {_listed(gone)}, surely less than {wanted}"
    else:
        return Verdict(passed=True, limit=limit, reason=f"passes: {shown}, at least {wanted}")
    return Verdict(passed=False, limit=limit, reason=said)


def percent(share: float | None) -> str:
    """A share in percent, rounded down: 97.96 % must not read as 98.0 %, nor 99.96 % as all of it."""
    return "nothing" if share is None else f"{math.floor(share * 1000 + 1e-9) / 10:.1f}%"


def _interval(kept: Kept) -> str:
    return f"{percent(kept.low)} to {percent(kept.high)}"


def _listed(parts: Sequence[str], most: int = 3) -> str:
    more = [f"{len(parts) - most} more"] if len(parts) > most else []
    return ", ".join([*parts[:most], *more])
