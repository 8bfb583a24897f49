"""Days of the week and months of the year, in their order."""

from collections.abc import Sequence
from itertools import pairwise

from secura.tasks.everyday.asking import choose, others
from secura.tasks.question import Question

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
"""The months by their English names, whatever the locale."""


def days_and_months() -> list[Question]:
    """The day or month just after another or just before it, one of four."""
    days, months = (*_DAYS, _DAYS[0]), MONTHS
    return [
        *(_next(f"Which day comes right after {day}?", after, _DAYS) for day, after in pairwise(days)),
        *(_next(f"Which day comes right before {day}?", before, _DAYS) for before, day in pairwise(days)),
        *(_next(f"Which month comes right after {month}?", after, months) for month, after in pairwise(months)),
        *(_next(f"Which month comes right before {month}?", before, months) for before, month in pairwise(months)),
    ]


def _next(prompt: str, answer: str, names: Sequence[str]) -> Question:
    asked = prompt.removesuffix("?").split()[-1]
    return choose(prompt, answer, others(prompt, answer, [name for name in names if name != asked], 3))
