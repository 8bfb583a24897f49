"""Asking a ready model questions of several tasks, from the cache where it has been asked before."""

import math
import time
from collections.abc import Callable, Sequence

from rich.console import Console

from secura.errors import SecuraError
from secura.evaluation.batch_size import BatchSize
from secura.evaluation.score_cache import ScoreCache, score_key
from secura.evaluation.score_task import score_task
from secura.evaluation.scoring import SCORING_VERSION
from secura.evaluation.task_score import TaskScore
from secura.experiments.forget.tasks import AskedTask
from secura.experiments.models.pair import ReadyModel


def cached_scores(
    ready: ReadyModel, asked: Sequence[AskedTask], cache: ScoreCache, which: str, console: Console, *, fresh: bool
) -> tuple[list[TaskScore], list[bool]]:
    """A model's score on each task, and whether it came from the cache.

    Each score is kept as soon as it is there, so that a run that is stopped need not ask again.

    Args:
        ready: the model; its fingerprint is the key.
        asked: the tasks.
        cache: where scores are kept.
        which: what the model is called, such as `the base model`.
        console: where progress is shown.
        fresh: whether to ask anew, whatever the cache holds.

    Raises:
        SecuraError: if a score is not a number.
    """
    keys = [
        score_key(ready.fingerprint, ready.arithmetic, each.task, each.items, ready.tokenizer, scoring=SCORING_VERSION)
        for each in asked
    ]
    found = [
        None if fresh else cache.load(key, each.task.name, each.items) for key, each in zip(keys, asked, strict=True)
    ]
    missing = [index for index, score in enumerate(found) if score is None]
    if len(missing) < len(asked):
        console.print(
            f"scores of {which} on {len(asked) - len(missing)} of {len(asked)} tasks are in {cache.folder}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )

    def keep(place: int, score: TaskScore) -> None:
        found[missing[place]] = score
        cache.store(keys[missing[place]], score)

    ask(ready, [asked[index] for index in missing], which, console, keep)
    return [score for score in found if score is not None], [index not in missing for index in range(len(asked))]


def ask(
    ready: ReadyModel,
    asked: Sequence[AskedTask],
    which: str,
    console: Console,
    on_score: Callable[[int, TaskScore], None],
) -> None:
    """Ask a model every task; `on_score` is called with each task's place and score."""
    total = sum(len(each.items) for each in asked)
    if not total:
        return
    began, done = time.monotonic(), 0
    size = BatchSize("auto", ready.model.device)  # one for all, so that what did not fit is tried once
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
