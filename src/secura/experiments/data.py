"""Which rows a task has, which of them are held out, and which knowledge is asked for."""

import os
import random
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from secura.errors import ConfigError
from secura.tasks.catalogue import CATALOGUE
from secura.tasks.data_files import check_columns, read_items, read_source
from secura.tasks.finding import GROUPS, check_source, find_tasks, is_user_task
from secura.tasks.question import Item, PlainText
from secura.tasks.task import Task
from secura.tasks.task_items import task_items
from secura.tasks.world import DEFAULT_TASK, NEW_TASKS, NewTask, knowledge_questions

BUNDLED_STEPS = 150
"""Steps of the bundled task unless the user sets them: under three minutes on two cores."""

BUNDLED_ROWS = 2400
"""Training questions drawn for a bundled task."""


NO_RETENTION = "none"
"""In place of questions: nothing is asked."""

EVERYDAY = "everyday"
"""The group of tasks that any English model is asked where the user names no questions."""


@dataclass(frozen=True, kw_only=True)
class TaskRows:
    """The rows of one task, as they were read."""

    name: str
    """What the task is called in the report."""
    train: list[Item]
    """What is learned."""
    test: list[Item] | None
    """What the gain is measured on; None for a share of `train` still to be held out."""
    suggested_steps: int | None
    """Steps that suit the rows, where they come with such a number."""
    unused: tuple[str, ...] = ()
    """Columns that hold something and that nothing is read from."""
    mixed: tuple["MixedRows", ...] = ()
    """What is learned beside it."""


@dataclass(frozen=True, kw_only=True)
class MixedRows:
    """Rows that are learned beside a task, such as those that are replayed."""

    name: str
    """Where they come from."""
    share: float
    """Their share of all rows that are learned."""
    rows: list[Item]
    """All there are."""


def read_task(
    path: str | None,
    *,
    bundled_model: bool,
    seed: int,
    test_rows: int,
    split: str = "train",
    test_path: str | None = None,
    bundled_rows: int = BUNDLED_ROWS,
    columns: Mapping[str, str] | None = None,
) -> TaskRows:
    """Read or draw the rows of a task.

    Args:
        path: file, folder, hub data set or name of a task; None is the bundled task.
        bundled_model: whether the model is the bundled one, which alone has bundled tasks.
        seed: fixes what is drawn.
        test_rows: at most this many questions are asked of a task that has its own.
        split: of a folder, or of a hub data set whose name ends in none.
        test_path: where questions come from instead.
        bundled_rows: training questions drawn for a bundled task.
        columns: by the names that rows are read by, what a file calls them.

    Raises:
        ConfigError: if a file of tasks holds more than one.
        DataError: if a file cannot be used.
    """
    test = None
    check_columns(columns or {})
    if test_path is not None:
        test = read_items(test_path, split="test", columns=columns)
        test = random.Random(seed).sample(test, min(len(test), test_rows))
    bundled = _bundled_task(path) if bundled_model else None
    if bundled is not None:
        name, task = bundled
        own: list[Item] = list(task.test_questions(test_rows, seed)) if test is None else test
        return TaskRows(
            name=name, train=list(task.train_questions(bundled_rows, seed)), test=own, suggested_steps=BUNDLED_STEPS
        )
    assert path is not None  # `check_settings` has refused a model of the user's own without data
    named = _named_task(path)
    if named is None:
        read = read_source(path, split=split, columns=columns)
        return TaskRows(name=path, train=read.items, test=test, suggested_steps=None, unused=read.unused)
    if test is None:
        test = task_items(named, split="test", count=test_rows, seed=seed)
    train = task_items(named, split="train", seed=seed)
    return TaskRows(name=named.name, train=train, test=test, suggested_steps=None)


def read_mixed(mix: Mapping[str, float], *, bundled_model: bool, seed: int) -> tuple[MixedRows, ...]:
    """The rows that are learned beside a task.

    Args:
        mix: shares of all rows, by file, folder, data set or task.
        bundled_model: whether the model is the bundled one.
        seed: fixes what is drawn.

    Raises:
        ConfigError: if the shares leave nothing for the task itself.
        DataError: if a file cannot be used.
    """
    total = sum(mix.values())
    if total >= 1:
        raise ConfigError(
            f"the shares of data.mix add up to {total:g}, which leaves nothing for data.path; make the sum less than 1."
        )
    return tuple(
        MixedRows(
            name=name,
            share=share,
            rows=read_task(name, bundled_model=bundled_model, seed=seed, test_rows=0).train,
        )
        for name, share in mix.items()
    )


def _bundled_task(path: str | None) -> tuple[str, NewTask] | None:
    name = path or DEFAULT_TASK
    return (name, NEW_TASKS[name]) if name in NEW_TASKS else None


def _named_task(path: str) -> Task | None:
    """The one task that `path` names, unless it is a file or data set of rows; refuses what is neither."""
    if not is_user_task(path) and (path not in CATALOGUE or os.path.exists(path)):
        check_source(path, groups=False)
        return None
    tasks = find_tasks([path])
    if len(tasks) > 1:
        raise ConfigError(f"{path} holds {len(tasks)} tasks, but a run learns only one; put it into a separate file.")
    return tasks[0]


def read_retention(path: str | None, *, bundled_model: bool, per_family: int, seed: int) -> list[Item]:
    """The questions about what must not be lost.

    Args:
        path: files of questions and names of tasks, parted by commas; None is the bundled model's own questions, or
            the everyday ones for any other model, and the word none asks nothing.
        bundled_model: whether the model is the bundled one.
        per_family: at most this many questions of each field of knowledge.
        seed: fixes what is drawn.

    Raises:
        DataError: if a file cannot be used.
    """
    if path == NO_RETENTION:
        return []
    if path is None and not bundled_model:
        path = EVERYDAY
    if path is None:
        return list(knowledge_questions(per_family, seed))
    files, tasks = parted(path)
    items = [item for task in find_tasks(tasks) for item in task_items(task, count=per_family, seed=seed)]
    rows = [item for file in files for item in read_items(file)]
    return items + _at_most_per_family(rows, per_family, seed)


def parted(path: str) -> tuple[list[str], list[str]]:
    """Files of rows, and names of tasks, that `--retain` names, parted by commas.

    Raises:
        DataError: for a name that is neither.
    """
    if path == NO_RETENTION:
        return [], []
    names = [path] if os.path.exists(path) else [name for part in path.split(",") if (name := part.strip())]
    tasks = [name for name in names if is_user_task(name) or (_is_task(name) and not os.path.exists(name))]
    files = [name for name in names if name not in tasks]
    for name in files:
        check_source(name, groups=True)
    return files, tasks


def _is_task(name: str) -> bool:
    return name in CATALOGUE or name in GROUPS


def calibration_items(path: str | None, *, bundled_model: bool, seed: int) -> list[Item]:
    """What is read before an adapter starts: a file's or a task's rows, or knowledge of the bundled model.

    Raises:
        ConfigError: if a model of the user's own comes without such a file.
        DataError: if the file cannot be used.
    """
    if path is None and not bundled_model:
        raise ConfigError("the adapter needs texts of what must be kept; name a file with method.calibration.")
    if path is None:
        return list(knowledge_questions(seed=seed + 1))  # another draw than the questions that are asked
    named = _named_task(path)
    items = read_items(path) if named is None else task_items(named, split="train", seed=seed)
    return random.Random(f"calibration/{seed}").sample(items, len(items))


def _at_most_per_family(items: Sequence[Item], count: int, seed: int) -> list[Item]:
    """`count` items of each family, drawn by the seed, in the order of the file."""
    members: dict[str, list[int]] = {}
    for index, item in enumerate(items):
        members.setdefault(item.family, []).append(index)
    draw = random.Random(seed)
    drawn = [draw.sample(indices, min(count, len(indices))) for indices in members.values()]
    return [items[index] for index in sorted(index for indices in drawn for index in indices)]


def hold_out(items: Sequence[Item], *, share: float, at_most: int, seed: int) -> tuple[list[int], list[int]]:
    """Split into training and held-out items, so that no prompt is in both.

    A share that comes to less than one item holds out one, as long as two prompts are there.

    Returns:
        Indices of the items to train on and of those held out, both in the order of `items`.
    """
    groups: dict[Hashable, list[int]] = {}
    for index, item in enumerate(items):
        groups.setdefault(item.text if isinstance(item, PlainText) else item.prompt, []).append(index)
    wanted = min(at_most, round(len(items) * share) or (1 if share else 0))
    order = list(groups.values())
    random.Random(seed).shuffle(order)
    held: set[int] = set()
    for indices in order[:-1]:  # at least one prompt stays to train on
        if len(held) + len(indices) <= wanted:
            held.update(indices)
    return [index for index in range(len(items)) if index not in held], sorted(held)
