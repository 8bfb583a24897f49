"""Whether enough knowledge was kept: a gate that neither luck nor too few questions can open.

`secura train`, `secura sequence` and `secura forget` all ask `judge`. Compared with the limit is
the lower end of the interval of what was kept (`secura.evaluation.tally`), an exact one. With a
confidence of 0.95 a model that keeps less than the limit passes in one run of 40 at most, and a
model that keeps just the limit seldom does: the limit is what must be shown.

Of n right answers that all stay right, at least (α/2)^(1/n) were kept, α = 1 − confidence. So
the gate needs ln(α/2) / ln(limit) questions that the base answers right: 183 for a limit of
0.98 at 0.95.

All questions count alike, so one broken group may drown in many sound ones. The gate therefore
also fails if one of m groups has the whole of its own interval below the limit, at 1 − α/m, so
that even among many groups a sound model is seldom failed for one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from secura.errors import ConfigError
from secura.evaluation.certificate import items_needed
from secura.evaluation.significance import Interval
from secura.evaluation.tally import CONFIDENCE, Tally, limit_text, percent, together


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the gate says."""

    passed: bool
    """Whether enough was kept."""
    limit: float
    """The share that was to be kept."""
    reason: str
    """One sentence: what was compared with what."""

    @property
    def sentence(self) -> str:
        """The line that a command ends with."""
        return f"gate at {limit_text(self.limit)}: {self.reason}"


def questions_needed(limit: float, confidence: float = CONFIDENCE) -> int:
    """How many questions the base must answer right before the gate can open at all."""
    return items_needed(limit, (1 + confidence) / 2)  # the lower end of an interval with two


def check_gate_can_open(limit: float, questions: int, *, ask_more: str, confidence: float = CONFIDENCE) -> None:
    """Refuse a gate that so few questions could never open, before anything is asked.

    Args:
        limit: the share that must be kept.
        questions: how many questions of right and wrong will be asked.
        ask_more: how the user asks more of them, such as `raise --count`.
        confidence: of the interval.

    Raises:
        ConfigError: if the gate would fail whatever the answers are.
    """
    needed = questions_needed(limit, confidence)
    if questions < needed:
        raise ConfigError(
            f"{questions:,} questions cannot show at confidence {confidence:g} that {limit_text(limit)} is kept, "
            f"even if all answers stay right: that takes {needed:,}; {ask_more}, or lower --min-retention."
        )


def judge(groups: Mapping[str, Tally], limit: float, *, ask_more: str, confidence: float = CONFIDENCE) -> Verdict:
    """Say whether enough was kept.

    Args:
        groups: what was kept of each family of knowledge, or of each task, by its name.
        limit: the share that must be kept.
        ask_more: how the user asks more questions, such as `raise --count`.
        confidence: of the interval.
    """
    kept = together(groups.values())
    share, interval = kept.kept, kept.interval(confidence)
    if share is None or interval is None:
        return Verdict(
            passed=False, limit=limit, reason="fails: the base model answered no question right, so nothing can be kept"
        )
    wanted, needed = limit_text(limit), questions_needed(limit, confidence)
    gone = _surely_below(groups, limit, confidence)
    named = f"; {_listed(gone)}" if gone else ""
    shown = f"kept {percent(share)} of what the base knew ({100 * confidence:g}% interval {_interval_text(interval)})"
    if interval.high < limit:
        said = f"fails: {shown}, all of it below {wanted}{named}"
    elif kept.before < needed:
        said = (
            f"fails: too few to tell: the base model answers {kept.before:,} questions right, and {needed:,} are the "
            f"least that can show {wanted}; {ask_more}"
        )
    elif share < limit:
        said = f"fails: {shown}, less than {wanted}{named}"
    elif interval.low < limit:
        said = f"fails: {shown}, which cannot be told from less than {wanted}{named}; to tell, {ask_more}"
    elif gone:
        said = f"fails: {shown}, but {_listed(gone)}, surely less than {wanted}"
    else:
        return Verdict(passed=True, limit=limit, reason=f"passes: {shown}, at least {wanted}")
    return Verdict(passed=False, limit=limit, reason=said)


def _surely_below(groups: Mapping[str, Tally], limit: float, confidence: float) -> list[str]:
    """Groups of several that kept less than the limit whatever their interval holds, the worst first."""
    known = {name: tally for name, tally in groups.items() if tally.before}
    if len(known) < 2:
        return []
    strict = 1 - (1 - confidence) / len(known)
    below = []
    for name, tally in known.items():
        share, interval, sure = tally.kept, tally.interval(confidence), tally.interval(strict)
        if share is not None and interval is not None and sure is not None and sure.high < limit:
            below.append((share, f"{name} kept {percent(share)} ({_interval_text(interval)})"))
    return [said for _, said in sorted(below, key=lambda pair: pair[0])]


def _interval_text(interval: Interval) -> str:
    return f"{percent(interval.low)} to {percent(interval.high)}"


def _listed(parts: Sequence[str], most: int = 3) -> str:
    more = [f"{len(parts) - most} more"] if len(parts) > most else []
    return ", ".join([*parts[:most], *more])
