"""What two models are asked: named tasks, a file of the user's own rows, or the bundled world's knowledge."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from secura.errors import ConfigError
from secura.evaluation.scoring import answer_limits
from secura.experiments.asking import AskedTask
from secura.experiments.data import parted
from secura.tasks.data_files import read_items
from secura.tasks.data_rows import item_from_row
from secura.tasks.finding import find_tasks
from secura.tasks.prompting import answer_tokens
from secura.tasks.question import Item, PlainText, Question
from secura.tasks.task import Metric, Row, Task
from secura.tasks.task_items import task_items

WORLD_KNOWLEDGE = "knowledge"
"""The group of the bundled world's families of knowledge."""

_MATCHED_TOKENS = 64
"""An answer of more tokens is hardly ever repeated letter for letter, so its overlap is measured instead."""

_LONG_ANSWER_TOKENS = 256


def asked_tasks(
    names: Sequence[str],
    *,
    retain: str | None,
    bundled: bool,
    data: Path | None,
    count: int,
    seed: int,
    tokenizer: PreTrainedTokenizerBase,
) -> list[AskedTask]:
    """Find the tasks and draw their questions.

    Args:
        names: tasks, groups, or files that define a task.
        retain: files of rows, each family of all of them a task of its own, and names of tasks, parted by commas.
        bundled: whether the base is the bundled model, whose knowledge is the default.
        data: folder with the rows of tasks; None for the environment's, or the hub.
        count: questions of each task at most.
        seed: which are drawn.
        tokenizer: the base's; how long an answer is decides how a row of `retain` is scored.

    Raises:
        ConfigError: if nothing is named, or two tasks have one name.
        DataError: if a file cannot be used.
    """
    files, retained = parted(retain) if retain else ([], [])
    wanted = [*names, *retained]
    if not wanted and not files:
        if not bundled:
            raise ConfigError(_nothing_named())
        wanted = [WORLD_KNOWLEDGE]
    found = find_tasks(wanted) if wanted else []
    asked = [
        AskedTask(task=task, items=task_items(task, data=data, split="test", count=count, seed=seed)) for task in found
    ]
    rows = [item for file in files for item in read_items(file)]
    asked += tasks_of_rows(rows, ", ".join(files), tokenizer, count=count, seed=seed)
    seen: set[str] = set()
    for each in asked:
        if each.task.name in seen:
            raise ConfigError(f"two tasks are called {each.task.name}; rename a family of {retain}, or leave one out.")
        seen.add(each.task.name)
        if not each.items:
            raise ConfigError(f"task {each.task.name} has no questions to ask; leave it out of --tasks.")
    return asked


def _nothing_named() -> str:
    from secura.tasks.catalogue import CATALOGUE

    own = [name for name, task in CATALOGUE.items() if task.bundled is None]
    shown = [name for name in own if not name.startswith("bbh")]
    return (
        "nothing to ask: name tasks with --tasks, a file of rows with --retain, or both; the tasks are "
        f"{', '.join(shown)}, and groups such as everyday and bbh, or a task file of your own."
    )


def tasks_of_rows(
    rows: Sequence[Item], path: str, tokenizer: PreTrainedTokenizerBase, *, count: int, seed: int
) -> list[AskedTask]:
    """Each family of rows as a task, or as several where its rows must be scored in different ways.

    Args:
        rows: the rows.
        path: where they are from.
        tokenizer: how long an answer is decides how it is scored.
        count: rows of each task at most.
        seed: which are drawn.
    """
    members: dict[str, dict[Metric, list[Item]]] = {}
    for item in rows:
        members.setdefault(item.family, {}).setdefault(_metric(item, tokenizer), []).append(item)
    draw = random.Random(seed)
    asked = []
    for family, by_metric in members.items():
        for metric, items in by_metric.items():
            chosen = sorted(draw.sample(range(len(items)), min(count, len(items))))
            name = family if len(by_metric) == 1 else f"{family}, {metric}"
            drawn = [items[index] for index in chosen]
            asked.append(AskedTask(task=_task_of_rows(name, metric, path, drawn, tokenizer), items=drawn))
    return asked


def _metric(item: Item, tokenizer: PreTrainedTokenizerBase) -> Metric:
    if isinstance(item, PlainText):
        return "perplexity"
    if item.choices:
        return "accuracy_by_length" if item.by_length else "accuracy"
    if item.match != "exact":
        return "match"
    length = len(answer_tokens(tokenizer, item.asked, item.answered, end=False))
    return "exact_match" if length <= _MATCHED_TOKENS and item.answer_turn is None else "rougeL"


def _task_of_rows(
    name: str, metric: Metric, path: str, items: Sequence[Item], tokenizer: PreTrainedTokenizerBase
) -> Task:
    questions = [item for item in items if isinstance(item, Question)]
    many_lines = any("\n" in question.answer.strip() for question in questions)
    stop: tuple[str, ...] = () if many_lines else ("\n",)
    max_answer_tokens = _LONG_ANSWER_TOKENS if metric == "rougeL" else _MATCHED_TOKENS + 8
    if metric == "match":
        max_answer_tokens, stop = answer_limits(tokenizer, questions)
    return Task(
        name=name,
        version=1,
        tests="rows of your own",
        source=path,
        prompt_reason="The row's own words, as `secura train --retain` asks them.",
        metric=metric,
        item=_own_item,
        stop=stop,
        max_answer_tokens=max_answer_tokens,
    )


def _own_item(row: Row) -> Any:
    return item_from_row(row, where="row")
