"""Everyday questions, which come with secura: what any English model knows before it is taught something new."""

from collections.abc import Mapping
from types import MappingProxyType

from secura.tasks.catalogue.row_shapes import choice_question, free_question
from secura.tasks.everyday import FAMILIES
from secura.tasks.everyday.asking import Family
from secura.tasks.question import Question
from secura.tasks.task import Metric, Row, Task


def _item(row: Row) -> Question:
    return choice_question(row, row["question"]) if "choices" in row else free_question(row, row["prompt"])


def _task(family: Family) -> Task:
    first = family.questions()[0]
    chosen: Metric = "accuracy_by_length" if family.by_length else "accuracy"
    exact = first.match == "exact"
    return Task(
        name=f"everyday_{family.name}",
        version=1,
        tests=family.tests,
        source="small tables of facts that come with secura (secura.tasks.everyday)",
        prompt_reason="A question as someone would type it, which a chat model and a base model can both answer.",
        metric=chosen if first.choices else "exact_match" if exact else "match",
        item=_item,
        bundled=family.draw,
        # As `secura.evaluation.scoring.answer_limits` ends them in training.
        stop=("\n",) if exact else (),
        max_answer_tokens=24,
    )


TASKS: Mapping[str, Task] = MappingProxyType({task.name: task for task in map(_task, FAMILIES)})
"""One task a family."""
