"""What scoring a task came to, item by item."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from secura.tasks.question import Item
from secura.tasks.task import Metric


@dataclass(frozen=True, kw_only=True)
class ItemScore:
    """One item, and what the model made of it."""

    item: Item
    """What was asked."""
    given: str
    """The model's answer, stripped at its ends; empty for plain text."""
    score: float
    """1 or 0 for right or wrong, 0 to 1 for an overlap with the right answer, nats per token for plain text."""
    correct: bool | None = None
    """Whether the answer is right; None where the metric is not about right and wrong."""
    truncated: bool = False
    """Whether the answer was cut at the task's limit of tokens."""
    likelihoods: tuple[float, ...] = ()
    """Summed log-likelihood of each choice in nats; empty where there are no choices."""
    tokens: int = 0
    """How many tokens were generated, or scored."""


@dataclass(frozen=True, kw_only=True)
class TaskScore:
    """One model's score on one task."""

    task: str
    """The task's name."""
    version: int
    """The task's version."""
    metric: Metric
    """What `value` is."""
    value: float
    """The headline number over all items: a mean, a corpus score, or a perplexity."""
    also: Mapping[str, float]
    """Other metrics of the same answers, by name."""
    items: Sequence[ItemScore]
    """Every item, in the order asked."""
    truncated: int = 0
    """How many answers were cut at the limit of tokens."""
    prompts_cut: int = 0
    """How many prompts lost their beginning, for want of context."""


def as_json(score: TaskScore) -> dict[str, Any]:
    """A score without its questions, which are known by their order; `from_json` puts them back."""
    return {
        "task": score.task,
        "version": score.version,
        "metric": score.metric,
        "value": _storable(score.value),
        "also": {name: _storable(value) for name, value in score.also.items()},
        "truncated": score.truncated,
        "prompts_cut": score.prompts_cut,
        "items": [
            {
                "given": each.given,
                "score": _storable(each.score),
                "correct": each.correct,
                "truncated": each.truncated,
                "likelihoods": [_storable(value) for value in each.likelihoods],
                "tokens": each.tokens,
            }
            for each in score.items
        ],
    }


def from_json(stored: Mapping[str, Any], items: Sequence[Item]) -> TaskScore:
    """The score that `as_json` stored, with the questions it was stored for.

    Raises:
        ValueError: if it holds another number of answers than there are items.
    """
    answers = stored["items"]
    if len(answers) != len(items):
        raise ValueError(f"the stored score of {stored['task']} has {len(answers)} answers to {len(items)} items.")
    return TaskScore(
        task=stored["task"],
        version=stored["version"],
        metric=stored["metric"],
        value=_restored(stored["value"]),
        also={name: _restored(value) for name, value in stored["also"].items()},
        truncated=stored["truncated"],
        prompts_cut=stored["prompts_cut"],
        items=tuple(
            ItemScore(
                item=item,
                given=answer["given"],
                score=_restored(answer["score"]),
                correct=answer["correct"],
                truncated=answer["truncated"],
                likelihoods=tuple(map(_restored, answer["likelihoods"])),
                tokens=answer["tokens"],
            )
            for item, answer in zip(items, answers, strict=True)
        ),
    )


def _storable(value: float) -> float | str:
    """JSON has no infinity, such as a choice that a model holds for impossible has."""
    return value if math.isfinite(value) else str(value)


def _restored(value: float | str) -> float:
    return float(value)
