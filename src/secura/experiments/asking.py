"""Asking a ready model the questions of several tasks, with one line of progress."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console

from secura.errors import SecuraError
from secura.evaluation.batch_size import BatchSize
from secura.evaluation.score_task import score_task
from secura.evaluation.task_score import TaskScore
from secura.experiments.models.pair import ReadyModel
from secura.tasks.question import Item
from secura.tasks.task import Task

_RIGHT_OR_WRONG = ("accuracy", "accuracy_by_length", "exact_match", "match", "number_match")
"""Metrics by which an answer can flip and be kept."""


@dataclass(frozen=True, kw_only=True)
class AskedTask:
    """A task with the questions drawn of it."""

    task: Task
    """The task."""
    items: Sequence[Item]
    """Its questions."""

    @property
    def right_or_wrong(self) -> bool:
        """Whether each answer is right or wrong, so that it can flip and be kept."""
        return self.task.metric in _RIGHT_OR_WRONG


def ask(
    ready: ReadyModel,
    asked: Sequence[AskedTask],
    which: str,
    console: Console,
    on_score: Callable[[int, TaskScore], None],
    *,
    size: BatchSize | None = None,
) -> None:
    """Ask a model every task.

    Args:
        ready: the model.
        asked: the tasks.
        which: what the model is called, such as `the base model`.
        console: where progress is shown.
        on_score: called with each task's place and score, as soon as it is there.
        size: questions at once; None starts high, and halves where memory runs out.

    Raises:
        SecuraError: if a score is not a number.
    """
    total = sum(len(each.items) for each in asked)
    if not total:
        return
    began, done = time.monotonic(), 0
    size = size or BatchSize("auto", ready.model.device)  # one for all, so that what did not fit is tried once
    with console.status(f"asking {which} {total:,} questions") as status:

        def show(answered: int) -> None:
            nonlocal done
            done += answered
            status.update(f"asking {which} {total:,} questions, {done:,} answered")

        for place, each in enumerate(asked):
            score = score_task(ready.model, ready.tokenizer, each.task, each.items, batch_size=size, on_progress=show)
            _check_finite(score, which)
            on_score(place, score)
    seconds = time.monotonic() - began
    console.print(f"asked {which} {total:,} questions in {seconds:.0f} s", highlight=False)


def _check_finite(score: TaskScore, which: str) -> None:
    for place, item in enumerate(score.items, start=1):
        if not math.isfinite(item.score):
            raise SecuraError(
                f"{which}'s score of item {place} of {score.task} is {item.score}; "
                "its weights hold NaN or infinity, or overflow in the type they are stored in."
            )
