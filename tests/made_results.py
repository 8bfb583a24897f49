"""Comparisons of two models, made up: whatever a report must show, without a model."""

from collections.abc import Sequence
from pathlib import Path

from secura.evaluation.significance import compare_paired
from secura.evaluation.tally import together
from secura.evaluation.task_score import ItemScore, TaskScore
from secura.experiments.forget.result import ForgetResult, TaskChange, by_clearest_loss
from secura.tasks.data_rows import item_from_row
from secura.tasks.question import Item, PlainText, Question
from secura.tasks.task import Metric, Task


def made_task(name: str, metric: Metric = "exact_match", *, tests: str = "made up") -> Task:
    return Task(
        name=name,
        version=1,
        tests=tests,
        source="made up",
        prompt_reason="made up",
        metric=metric,
        item=lambda row: item_from_row(row, where="row"),
    )


def made_score(task: Task, items: Sequence[Item], scores: Sequence[float], given: str) -> TaskScore:
    graded = task.metric in ("perplexity", "rougeL")
    return TaskScore(
        task=task.name,
        version=task.version,
        metric=task.metric,
        value=sum(scores) / len(scores),
        also={},
        items=tuple(
            ItemScore(
                item=item,
                given=item.answer if isinstance(item, Question) and score == 1 else given,
                score=score,
                correct=None if graded else bool(score),
                likelihoods=(-1.0, float("-inf")) if isinstance(item, Question) and item.choices else (),
            )
            for item, score in zip(items, scores, strict=True)
        ),
    )


def made_change(
    name: str,
    before: Sequence[float],
    after: Sequence[float],
    *,
    metric: Metric = "exact_match",
    significant: bool | None = None,
    prompt: str = "question",
    answer: str = "right",
    given: str = "wrong",
) -> TaskChange:
    """A task's change from the score of each item; significant where p < 0.05 unless it is said."""
    task = made_task(name, metric)
    if metric == "perplexity":
        items: list[Item] = [PlainText(text=f"{prompt} {number}") for number in range(len(before))]
    else:
        choices = (answer, given) if metric == "accuracy" else ()
        items = [
            Question(prompt=f"{prompt} {number}", answer=answer, choices=choices, family=name)
            for number in range(len(before))
        ]
    paired = compare_paired(before, after, binary=metric in ("accuracy", "exact_match"))
    return TaskChange(
        task=task,
        before=made_score(task, items, before, given),
        after=made_score(task, items, after, given),
        paired=paired,
        adjusted_p=paired.p,
        significant=paired.p < 0.05 if significant is None else significant,
    )


def made_result(*changes: TaskChange, notes: Sequence[str] = ()) -> ForgetResult:
    ordered = by_clearest_loss(changes)
    counted = [change for change in ordered if change.right_or_wrong]
    return ForgetResult(
        base="base",
        tuned=str(Path("runs") / "tuned"),
        changes=ordered,
        flips=[flip for change in ordered for flip in change.flips],
        kept=together(change.tally for change in counted) if counted else None,
        verdict=None,
        confidence=0.95,
        notes=list(notes),
        record={"made": "2026-01-01", "settings": {"count": 200, "tasks": ()}, "provenance": {"commit": None}},
    )


RIGHT, WRONG = 1.0, 0.0


def some(right: int, of: int) -> list[float]:
    """That many right answers first, then wrong ones."""
    return [RIGHT] * right + [WRONG] * (of - right)
