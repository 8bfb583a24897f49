"""Naming tasks: one by one, in groups, or by the path of a user's own.

The groups, all in `GROUPS`:

- `mc`, multiple choice: logiqa, logiqa2, social_iqa, winogrande, commonsense_qa, openbookqa,
  arc_easy, arc_challenge, boolq, piqa, hellaswag, mmlu
- `generation`, free answers: gsm8k, cnndm, xsum, newsde, alpaca, alpaca_gpt4, alpaca_eval_gpt4,
  qa_wikidata, order_json
- `text`, scored by perplexity: wikitext2, tinystories
- `bbh`: the 27 tasks of BIG-Bench Hard, each named `bbh_...`
- `everyday`: everyday questions for any English model, families named `everyday_...`
- `knowledge`: what the bundled model knows, 13 families of questions
- `new_tasks`: what the bundled model can be taught, 20 tasks
- `world`: `knowledge` and `new_tasks`
- `all`: every task there is
"""

import os
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType

from secura.errors import ConfigError, DataError
from secura.tasks.catalogue import CATALOGUE
from secura.tasks.catalogue.big_bench_hard import TASKS as BIG_BENCH_HARD
from secura.tasks.catalogue.everyday_tasks import TASKS as EVERYDAY
from secura.tasks.catalogue.world_tasks import KNOWLEDGE_TASKS, NEW_TASK_TASKS
from secura.tasks.task import Kind, Task
from secura.tasks.user_tasks import USER_TASK_SUFFIXES, load_user_tasks


def _by_kind(kind: Kind) -> tuple[str, ...]:
    grouped = {*BIG_BENCH_HARD, *EVERYDAY, *KNOWLEDGE_TASKS, *NEW_TASK_TASKS}
    return tuple(name for name, task in CATALOGUE.items() if task.kind == kind and name not in grouped)


GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "mc": _by_kind("choice"),
        "generation": _by_kind("generation"),
        "text": _by_kind("text"),
        "bbh": tuple(BIG_BENCH_HARD),
        "everyday": tuple(EVERYDAY),
        "knowledge": tuple(KNOWLEDGE_TASKS),
        "new_tasks": tuple(NEW_TASK_TASKS),
        "world": (*KNOWLEDGE_TASKS, *NEW_TASK_TASKS),
        "all": tuple(CATALOGUE),
    }
)
"""Names that stand for several tasks."""


def find_tasks(names: Sequence[str]) -> list[Task]:
    """The tasks that are named, in that order, each once.

    Args:
        names: names of tasks, of `GROUPS`, or paths of .yaml or .py files that hold a user's own.

    Raises:
        ConfigError: for a name that stands for nothing, with the nearest that do; for a file that
            holds no task; and for two different tasks of one name.
    """
    found: dict[str, Task] = {}
    for name in dict.fromkeys(map(str.strip, names)):
        for task in _tasks_named(name):
            known = found.setdefault(task.name, CATALOGUE.get(task.name, task))
            if known is not task:
                raise ConfigError(f"{name}: there is already a task called {task.name!r}; give this one another name.")
    return list(found.values())


def _tasks_named(name: str) -> Sequence[Task]:
    if name in CATALOGUE:
        return [CATALOGUE[name]]
    if name in GROUPS:
        return [CATALOGUE[member] for member in GROUPS[name]]
    if is_user_task(name):
        return load_user_tasks(Path(name))
    near = get_close_matches(name, [*CATALOGUE, *GROUPS], n=3, cutoff=0.5)
    meant = f"the nearest are {', '.join(near)}" if near else f"groups of tasks are {', '.join(GROUPS)}"
    raise ConfigError(
        f"{name!r} is no task; {meant}. To use a task of your own, give the path of its .yaml or .py file."
    )


def check_source(name: str, *, groups: bool) -> None:
    """Refuse a name under which there can be no rows, before a network is asked for them.

    Args:
        name: of a file, a folder or a hub data set; tasks are found before.
        groups: whether a group of tasks could have been meant.

    Raises:
        DataError: naming the nearest tasks, if it is no file and not of the form org/name.
    """
    if "/" in name or os.path.exists(name) or Path(name).suffix:
        return
    near = get_close_matches(name, [*CATALOGUE, *(GROUPS if groups else ())], n=3, cutoff=0.5)
    meant = f"; the nearest tasks are {', '.join(near)}" if near else ""
    raise DataError(f"{name}: no file, folder or task has this name{meant}. A hub data set is named org/name.")


def is_user_task(name: str) -> bool:
    """Whether a name is the path of a user's own task, by how it ends."""
    return name.endswith(USER_TASK_SUFFIXES)
