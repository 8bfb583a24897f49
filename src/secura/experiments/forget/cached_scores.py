"""A ready model's scores on several tasks, from the cache where it has been asked before."""

from collections.abc import Sequence

from rich.console import Console

from secura.evaluation.score_cache import ScoreCache, score_key
from secura.evaluation.scoring import SCORING_VERSION
from secura.evaluation.task_score import TaskScore
from secura.experiments.asking import AskedTask, ask
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
