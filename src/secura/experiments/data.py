"""Which rows a run trains on, which it holds out, and which knowledge it asks for."""

import os
import random
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from secura.errors import ConfigError
from secura.evaluation.retention_gate import check_gate_can_open
from secura.experiments.settings.run import RunConfig
from secura.tasks.catalogue import CATALOGUE
from secura.tasks.data_files import read_items
from secura.tasks.finding import GROUPS, find_tasks, is_user_task
from secura.tasks.question import Item, PlainText, Question
from secura.tasks.task import Task
from secura.tasks.task_items import task_items

BUNDLED_STEPS = 150
"""Steps of the bundled task unless the user sets them: under three minutes on two cores."""

ASK_MORE_KNOWLEDGE = "raise retention.per_family, or give --retain more questions"
"""How the user asks more, where too few questions were kept or lost to tell."""

BUNDLED_ROWS = 2400
"""Training questions drawn for a bundled task."""


@dataclass(frozen=True, kw_only=True)
class RunData:
    """All that a run reads."""

    name: str
    """What the new task is called in the report."""
    train: list[Item]
    """What is learned."""
    test: list[Item] | None
    """What the gain is measured on; None for a share of `train` still to be held out."""
    retention: list[Item]
    """What must not be lost; empty where the user named none."""
    steps: int | None
    """Steps that suit the data, where it comes with such a number."""


def read_run_data(config: RunConfig, *, bundled_rows: int = BUNDLED_ROWS) -> RunData:
    """Read or draw what a run needs; `bundled_rows` training questions of a bundled task.

    Raises:
        ConfigError: if a model of the user's own comes without data of the user's own, or
            a retention to reach without questions enough to show it.
        DataError: if a file cannot be used.
    """
    bundled_model = config.model.path is None
    if config.data.path is None and not bundled_model:
        raise ConfigError("a model of your own needs data of your own; name a file with --data.")
    test = None
    if config.data.test_path is not None:
        test = read_items(config.data.test_path, split="test")
        test = random.Random(config.training.seed).sample(test, min(len(test), config.data.test_rows))
    task = _bundled_task(config, bundled_rows) if bundled_model else None
    if task is not None:
        name, train, tests = task
        return RunData(
            name=name,
            train=train,
            test=tests if test is None else test,
            retention=_retention(config),
            steps=BUNDLED_STEPS,
        )
    assert config.data.path is not None
    named = _named_task(config.data.path)
    if named is not None:
        if test is None:
            test = task_items(named, split="test", count=config.data.test_rows, seed=config.training.seed)
        return RunData(
            name=named.name,
            train=task_items(named, split="train", seed=config.training.seed),
            test=test,
            retention=_retention(config),
            steps=None,
        )
    return RunData(
        name=config.data.path,
        train=read_items(config.data.path, split=config.data.split),
        test=test,
        retention=_retention(config),
        steps=None,
    )


def _bundled_task(config: RunConfig, rows: int) -> tuple[str, list[Item], list[Item]] | None:
    from secura.tasks.world import DEFAULT_TASK, NEW_TASKS

    name = config.data.path or DEFAULT_TASK
    if name not in NEW_TASKS:
        return None
    seed = config.training.seed
    train = NEW_TASKS[name].train_questions(rows, seed)
    return name, list(train), list(NEW_TASKS[name].test_questions(config.data.test_rows, seed))


def _named_task(path: str) -> Task | None:
    """The one task that `data.path` names, unless it is a file or data set of rows."""
    if not is_user_task(path) and (path not in CATALOGUE or os.path.exists(path)):
        return None
    tasks = find_tasks([path])
    if len(tasks) > 1:
        raise ConfigError(f"{path} holds {len(tasks)} tasks, and a run learns one; put it into a file of its own.")
    return tasks[0]


def _retention(config: RunConfig) -> list[Item]:
    """What must not be lost; refused where it is too little for the limit that the user has set."""
    items, limit = _retention_items(config), config.retention.min_retention
    if limit is not None:
        if not items:
            raise ConfigError("--min-retention needs questions to measure it by; name a file with --retain.")
        questions = sum(isinstance(item, Question) for item in items)
        check_gate_can_open(limit, questions, ask_more=ASK_MORE_KNOWLEDGE)
    return items


def _retention_items(config: RunConfig) -> list[Item]:
    wanted = config.retention
    if wanted.path is not None and _names_tasks(wanted.path):
        tasks = find_tasks(wanted.path.split(","))
        return [item for task in tasks for item in task_items(task, count=wanted.per_family, seed=config.training.seed)]
    if wanted.path is not None:
        return _at_most_per_family(read_items(wanted.path), wanted.per_family, config.training.seed)
    if config.model.path is None:
        from secura.tasks.world import knowledge_questions

        return list(knowledge_questions(wanted.per_family, config.training.seed))
    return []


def _names_tasks(path: str) -> bool:
    """Whether every part is a task or a group of tasks, and not a file of rows."""
    if os.path.exists(path) and not is_user_task(path):
        return False
    return all(name in CATALOGUE or name in GROUPS or is_user_task(name) for name in map(str.strip, path.split(",")))


def calibration_items(path: str | None, *, bundled_model: bool, seed: int) -> list[Item]:
    """What `corda` reads: a file's or a task's rows, or knowledge of the bundled model.

    Raises:
        ConfigError: if a model of the user's own comes without such a file.
        DataError: if the file cannot be used.
    """
    if path is None and not bundled_model:
        raise ConfigError("method corda needs texts of what must be kept; name a file with method.calibration.")
    if path is None:
        from secura.tasks.world import knowledge_questions

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
