"""How a comparison is put into words and numbers: the same on the screen and on the page."""

import math
from collections.abc import Sequence

from secura.evaluation.tally import TOO_FEW, kept_phrase
from secura.experiments.forget.result import ForgetResult, TaskChange

_NAMED = 3
"""Tasks named one by one in a sentence; the rest are counted."""


def value_text(change: TaskChange, *, tuned: bool) -> str:
    """A task's headline number: a share in percent, an overlap times 100, or a perplexity."""
    value = (change.after if tuned else change.before).value
    if change.lower_is_better:
        return f"{value:,.2f}" if value < 10_000 else f"{value:.1e}"
    return f"{100 * value:.1f}%" if change.right_or_wrong else f"{100 * value:.1f}"


def difference_text(change: TaskChange) -> str:
    """The mean difference of the items, tuned minus base."""
    return _signed(change, change.paired.difference)


def interval_text(change: TaskChange) -> str:
    """The interval of that difference."""
    return f"{_signed(change, change.paired.low)} to {_signed(change, change.paired.high)}"


def smallest_visible_text(change: TaskChange) -> str:
    """The smallest difference that would have been significant."""
    smallest = change.paired.smallest_visible
    if smallest is None or not math.isfinite(smallest):
        return "none"
    return f"{smallest:.3f}" if change.lower_is_better else f"{100 * smallest:.1f}"


def unit(change: TaskChange) -> str:
    """What differences are counted in; nats are nats a token."""
    return "nats" if change.lower_is_better else "points"


def significance_text(change: TaskChange) -> str:
    """Whether it is significant, and in which direction."""
    return "worse" if change.lost else "better" if change.gained else "no"


def p_text(change: TaskChange) -> str:
    """The corrected p."""
    return "p < 0.001" if change.adjusted_p < 0.001 else f"p = {change.adjusted_p:.3f}"


def headline(result: ForgetResult) -> str:
    """The finding in one sentence, the clearest loss by name."""
    if result.lost:
        worst = result.lost[0]
        named = "perplexity " if worst.lower_is_better else ""
        shown = f"{named}{value_text(worst, tuned=False)} before, {value_text(worst, tuned=True)} after"
        others = len(result.lost) - 1
        more = f", and {others} other {plural('task', others)} lost too" if others else ""
        return f"{'Broken' if _mostly_gone(worst) else 'Worse'}: {worst.name}, {shown}{more}."
    tasks = len(result.changes)
    if not any(_could_show_a_loss(change, result.confidence) for change in result.changes):
        asked = sum(len(change.before.items) for change in result.changes)
        return (
            f"{TOO_FEW.capitalize()}: {asked:,} {plural('question', asked)} of {tasks} {plural('task', tasks)} cannot "
            "show a loss, however large it is. Ask more."
        )
    return f"No task lost significantly, of {tasks} asked."


def details(result: ForgetResult) -> list[str]:
    """What else is to be said, sentence by sentence."""
    said = []
    if len(result.lost) > 1:
        parts = [f"{change.name} ({difference_text(change)} {unit(change)})" for change in result.lost[1:]]
        said.append(f"Also lost significantly: {listed(parts)}.")
    if result.gained:
        parts = [f"{change.name} ({difference_text(change)} {unit(change)})" for change in result.gained]
        said.append(f"Gained significantly: {listed(parts)}.")
    unchanged = len(result.changes) - len(result.lost) - len(result.gained)
    if unchanged and (result.lost or result.gained):
        said.append(f"{unchanged} {plural('task', unchanged)} without a significant change.")
    said.extend(_kept_sentence(result))
    said.extend(_blind_spot(result))
    return said


def _could_show_a_loss(change: TaskChange, confidence: float) -> bool:
    """Whether losing all of it would have been significant; so it is where a change was."""
    if change.significant:
        return True
    smallest = change.paired.smallest_visible
    if smallest is None or not math.isfinite(smallest):
        return False
    return not change.right_or_wrong or not change.tally.too_few(confidence)


def _mostly_gone(change: TaskChange) -> bool:
    return not change.lower_is_better and change.after.value < change.before.value / 2


def _kept_sentence(result: ForgetResult) -> list[str]:
    kept = result.kept
    if kept is None:
        return []
    if not kept.before:
        return [f"The base answered none of {kept.asked:,} questions right, so there is nothing to keep."]
    if kept.too_few(result.confidence):
        share = f"How much of what the base knew is kept: {TOO_FEW}"
    else:
        share = f"Of what the base knew, {kept_phrase(kept, result.confidence)} is kept"
    return [
        f"{share}: of {kept.asked:,} questions it answered {kept.before:,} right, "
        f"of which {kept.lost:,} are wrong now; {kept.gained:,} others are right now."
    ]


def _blind_spot(result: ForgetResult) -> list[str]:
    """How large a loss could have stayed unseen, where none was seen."""
    quiet = [change for change in result.changes if not change.significant and change.right_or_wrong]
    visible = [change.paired.smallest_visible for change in quiet]
    visible = [each for each in visible if each is not None and math.isfinite(each)]
    if not visible:
        return []
    low, high = 100 * min(visible), 100 * max(visible)
    span = f"{low:.1f}" if high - low < 0.05 else f"{low:.1f} to {high:.1f}"
    depending = "" if span == f"{low:.1f}" else ", depending on the task,"
    return [f"Where no change is seen, one of less than {span} points{depending} would not have shown."]


def listed(parts: Sequence[str]) -> str:
    """`a, b and c`, or the first few and how many more."""
    if len(parts) > _NAMED + 1:
        parts = [*parts[:_NAMED], f"{len(parts) - _NAMED} more"]
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _signed(change: TaskChange, number: float) -> str:
    digits = 3 if change.lower_is_better else 1
    rounded = round(number if change.lower_is_better else 100 * number, digits)
    # A hyphen for a minus would be lost beside the words around it.
    return f"{rounded:+.{digits}f}".replace("-", "−") if rounded else f"{0:.{digits}f}"


def plural(word: str, count: int) -> str:
    """The word, with an s unless there is one."""
    return word if count == 1 else f"{word}s"
