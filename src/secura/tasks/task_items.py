"""A task's items: where its rows are looked for, and which of them are drawn.

The tasks that come with secura draw their own questions, and a user's task names its own rows. Every
other task's rows are looked for in

1. the folder that is given, else the one that SECURA_DATA names: `<task>.<split>.jsonl`, gzipped or not;
2. where neither names a folder, the hub's data set: out of the local cache if it is there.

A folder that lacks a task's file is an error, not a reason to turn to the hub: the hub's rows are
other rows, and one report should not mix the two unasked.
"""

import hashlib
import json
import os
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

from secura.errors import ConfigError, DataError, InputError
from secura.tasks.data_files import file_rows, source_rows
from secura.tasks.data_rows import item_from_row
from secura.tasks.hub_rows import hub_rows
from secura.tasks.question import Item, PlainText, Question
from secura.tasks.task import Row, Split, Task

DATA_VARIABLE = "SECURA_DATA"
"""Environment variable that names the folder of task data."""

_DEFAULT_FAMILIES = (Question(prompt="", answer="").family, PlainText(text="").family)

_FIXED_ROWS: tuple[Row, ...] = (
    {"question": "Ann left early.\nWhere does _ live, and why?", "choices": ["False", "True"], "answer": 1},
    {
        "question": "Ann left early.\nWhere does _ live, and why?",
        "choices": ["Rome", "a small house", "Oslo", "Kyiv", "Lima"],
        "answer": 1,
    },
    {"prompt": "Where does Ann live?\n\nShe moved.", "target": "In Rome.\n#### 7"},
    {"text": "Ann lives in Rome."},
)
"""Rows of every shape, by which two versions of a prompt are told apart."""


def task_items(
    task: Task, *, data: Path | None = None, split: Split = "test", count: int | None = None, seed: int = 0
) -> list[Item]:
    """Read a task's rows, or draw them, and make each into what it asks.

    Args:
        task: the task.
        data: folder of task data; None is the folder in SECURA_DATA, or the hub.
        split: `test` is scored, `train` learned from.
        count: how many items to draw; None is all, or the task's own `drawn` where it draws its
            items itself. Fewer come back where there are fewer.
        seed: which items are drawn. A larger count by the same seed holds the smaller one.

    Returns:
        The items in the order of the file; `family` is the task's name unless the task sets another,
        and questions with choices carry the task's rule by which one is chosen.

    Raises:
        ConfigError: if `count` is negative.
        DataError: if the rows cannot be found or read, or are of the wrong shape for the metric.
    """
    if count is not None and count < 0:
        raise ConfigError(f"{count} items of {task.name} cannot be drawn; ask for 0 or more.")
    if task.bundled is not None:
        items: Iterable[Item] = _drawn(task, split, count, seed)
        return [_named(task, item) for item in items]
    source = _source(task, data, split)
    total = len(source.rows)
    order: Sequence[int] = range(total) if count is None else random.Random(seed).sample(range(total), total)
    found: dict[int, Item] = {}
    for index in order:
        if len(found) == count:
            break
        item = _item(task, source, index)
        if item is not None:
            found[index] = item
    if not found and count != 0:
        raise DataError(f"{source.name} holds no row for task {task.name}.")
    return [found[index] for index in sorted(found)]


def task_version_key(task: Task) -> str:
    """Name, version and a checksum: what a score is stored under.

    The checksum covers what the task makes of fixed rows, its metric, and how an answer ends; it
    changes with a changed prompt even where the version was forgotten. It does not cover the
    rows: these may come from another folder, so what stores a score adds a checksum of them.
    """
    asked = [_asked(task, row) for row in _FIXED_ROWS]
    if task.bundled is not None:
        asked = [_as_plain(item) for item in task.bundled(len(_FIXED_ROWS), 0)]
    # A user's template may need columns that no fixed row has; its own text tells it apart.
    template = repr(task.item) if is_dataclass(task.item) else ""
    settled = [task.metric, task.stop, task.max_answer_tokens, template, asked]
    return f"{task.name}-v{task.version}-{_checksum(settled)}"


def chance_level(items: Sequence[Item]) -> float | None:
    """The share that blind guessing gets right; None unless every item has choices."""
    sizes = [len(item.choices) if isinstance(item, Question) else 0 for item in items]
    return sum(1 / size for size in sizes) / len(sizes) if sizes and all(sizes) else None


@dataclass(frozen=True, kw_only=True)
class _Source:
    """Where a task's rows lie."""

    name: str
    """What an error calls it."""
    rows: Sequence[Any]
    """The rows, as they stand there."""
    place: Callable[[int], str]
    """Where a row is, to begin an error with."""
    shaped: Callable[[Any, str], Row | None]
    """A row as the task's item reads it, by its place; None to leave it out."""


def _drawn(task: Task, split: Split, count: int | None, seed: int) -> Sequence[Item]:
    draw = task.bundled if split == "test" else task.bundled_train
    if draw is None:
        raise DataError(f"task {task.name} only asks what a model already knows; it has no rows to learn from.")
    return draw(task.drawn[split] if count is None else count, seed)


def _source(task: Task, data: Path | None, split: Split) -> _Source:
    if task.rows is not None:
        return _own_rows(task, split)
    named = os.environ.get(DATA_VARIABLE) or None
    folder = data if data is not None else Path(named) if named else None
    if folder is not None:
        said = f"--data-dir {folder}" if data is not None else f"{DATA_VARIABLE}={folder}"
        return _folder_rows(task, folder, said, split)
    return _rows_of_hub(task, split)


def _own_rows(task: Task, split: Split) -> _Source:
    assert task.rows is not None
    if split not in task.rows:
        raise DataError(
            f"task {task.name} names no rows to {'learn from (train_rows)' if split == 'train' else 'score'}."
        )
    own = task.rows[split]
    placed = list(source_rows(own, split=split))
    return _Source(name=own, rows=[row for _, row in placed], place=lambda index: placed[index][0], shaped=_as_it_is)


def _as_it_is(row: Any, where: str) -> Row:
    if not isinstance(row, dict):
        raise DataError(f"{where}: is not an object with columns.")
    return row


def _folder_rows(task: Task, folder: Path, said: str, split: Split) -> _Source:
    names = [f"{task.name}.{split}.jsonl", f"{task.name}.{split}.jsonl.gz"]
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        lacks = f"has no {names[0]} or .gz" if folder.is_dir() else "is not a folder"
        hub = f", or name no folder, to read {_hub_name(task, split)} from the hub" if _hub_split(task, split) else ""
        raise DataError(
            f"task {task.name}: {said} {lacks}; name another folder with --data-dir or {DATA_VARIABLE}{hub}."
        )
    placed = list(file_rows(path))
    return _Source(
        name=str(path), rows=[row for _, row in placed], place=lambda index: placed[index][0], shaped=_in_one_shape
    )


def _in_one_shape(row: Any, where: str) -> Row:
    """A row of a file in one of the three shapes, whichever of the accepted ones it has."""
    item = item_from_row(row, where=where)
    if isinstance(item, PlainText):
        return {"text": item.text}
    if item.choices:
        return {"question": item.prompt, "choices": list(item.choices), "answer": item.choices.index(item.answer)}
    return {"prompt": item.prompt, "target": item.answer}


def _rows_of_hub(task: Task, split: Split) -> _Source:
    wanted = _hub_split(task, split)
    ways_out = f"name a folder that holds {task.name}.{split}.jsonl with --data-dir or {DATA_VARIABLE}"
    if task.hub is None or wanted is None:
        raise DataError(f"task {task.name} has no {split} rows on the hub; {ways_out}.")
    bundled = ", or ask tasks that come with secura, such as everyday" if split == "test" else ""
    from_hub = task.row_from_hub
    name = _hub_name(task, split)
    try:
        rows = hub_rows(task.hub.path, task.hub.config, wanted, revision=task.hub.revision)
    except LookupError as problem:
        raise DataError(
            f"task {task.name}: no folder of task data is named, and {name} could not be loaded from the hub "
            f"({problem}); {ways_out}{bundled}."
        ) from problem
    return _Source(
        name=name,
        rows=rows,
        place=lambda index: f"{name}, row {index + 1}",
        shaped=lambda row, where: row if from_hub is None else from_hub(row),
    )


def _hub_split(task: Task, split: Split) -> str | None:
    if task.hub is None:
        return None
    return task.hub.test_split if split == "test" else task.hub.train_split


def _hub_name(task: Task, split: Split) -> str:
    parts = (task.hub.path, task.hub.config, _hub_split(task, split)) if task.hub else ()
    return ":".join(part for part in parts if part)


def _item(task: Task, source: _Source, index: int) -> Item | None:
    where = source.place(index)
    try:
        row = source.shaped(source.rows[index], where)
        item = None if row is None else task.item(row)
    except InputError as problem:
        raise problem if str(problem).startswith(where) else DataError(f"{where}: {problem}") from problem
    except Exception as problem:  # an item is any function, a user's too
        raise DataError(f"{where}: task {task.name} cannot read it ({type(problem).__name__}: {problem}).") from problem
    if item is None:
        return None
    wanted = {"choice": "choices", "generation": "a free answer", "text": "plain text"}
    if _kind_of(item) != task.kind:
        raise DataError(
            f"{where}: has {wanted[_kind_of(item)]}, but metric {task.metric} of task {task.name} "
            f"needs {wanted[task.kind]}."
        )
    if task.metric == "exact_match" and isinstance(item, Question) and item.match != "exact":
        raise DataError(
            f"{where}: 'match' is {item.match!r}, but metric exact_match of task {task.name} compares letter for "
            "letter; give the task metric match."
        )
    return _named(task, item)


def _kind_of(item: Item) -> str:
    if isinstance(item, PlainText):
        return "text"
    return "choice" if item.choices else "generation"


def _named(task: Task, item: Item) -> Item:
    named = replace(item, family=task.name) if item.family in _DEFAULT_FAMILIES else item
    return replace(named, by_length=task.by_length) if isinstance(named, Question) else named


def _asked(task: Task, row: Row) -> Any:
    try:
        return _as_plain(task.item(row))
    except Exception as problem:  # not this task's shape of row
        return type(problem).__name__


def _as_plain(item: Item) -> list[Any]:
    if isinstance(item, PlainText):
        return [item.text]
    rule = [] if item.match == "exact" else [item.match]
    called = [dict(tool) for tool in item.tools] + ([] if item.answer_turn is None else [dict(item.answer_turn)])
    return [item.prompt, *item.right_answers, *item.choices, [dict(turn) for turn in item.turns], *rule, *called]


def _checksum(value: Any) -> str:
    written = json.dumps(value, ensure_ascii=True, sort_keys=True)
    return hashlib.sha256(written.encode()).hexdigest()[:16]
