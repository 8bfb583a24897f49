"""From a grid to its runs: every setting filled in, and everything checked that costs no compute."""

import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from peft import PeftConfig

from secura.checksums import file_checksum
from secura.errors import ConfigError, InputError
from secura.evaluation.scoring import SCORING_VERSION
from secura.experiments.comparison.grid.config import GridConfig, GridMethod, GridModel, GridTask, Settings, lay_over
from secura.experiments.comparison.grid.grid_run import GridRun
from secura.experiments.data import parted
from secura.experiments.methods.adapters import adapter_config
from secura.experiments.methods.checks import check_settings
from secura.experiments.methods.defaults import with_method_defaults
from secura.experiments.settings.layers import config_from
from secura.experiments.settings.run import RunConfig
from secura.experiments.settings.sequence import LearningConfig, SequenceConfig
from secura.experiments.settings.task_order import ordered_tasks
from secura.tasks.finding import GROUPS, find_tasks, is_user_task
from secura.tasks.task_items import task_version_key


@dataclass(frozen=True, kw_only=True)
class _Combination:
    """What one run combines, before settings are chosen."""

    method: GridMethod
    model: GridModel
    task: GridTask | None
    seed: int
    learning_rate: float | None
    order_seed: int | None

    @property
    def label(self) -> str:
        return self.method.shown

    @property
    def task_label(self) -> str:
        return "sequence" if self.task is None else _task_label(self.task)


def runs_of_grid(grid: GridConfig) -> list[GridRun]:
    """Every run of a grid.

    Raises:
        InputError: for a setting, method, strategy, task or file that cannot be used, a run that
            is declared twice, or an override or exclusion that no run matches; the message
            names the run.
    """
    checksum = cache(file_checksum)  # for as long as this takes: the next time, a file may hold something else
    runs: dict[str, GridRun] = {}
    used = [0] * len(grid.conditions)
    for combination in _combinations(grid):
        where = f"grid {grid.name}, {combination.label} on {combination.task_label}, seed {combination.seed}"
        try:
            run = _run(grid, combination, used, checksum)
        except InputError as problem:
            raise type(problem)(f"{where}: {problem}") from problem
        if run is None:
            continue
        if run.name in runs:
            raise ConfigError(f"{where} appears twice with the same settings; remove one or give it another label.")
        runs[run.name] = run
    for (section, condition), count in zip(grid.conditions, used, strict=True):
        if not count:
            said = ", ".join(f"{key}: {value}" for key, value in condition.items())
            raise ConfigError(f"grid {grid.name}: {section} ({said}) matches no run; correct it or remove it.")
    if not runs:
        raise ConfigError(f"grid {grid.name}: exclude leaves no run at all.")
    return list(runs.values())


def _combinations(grid: GridConfig) -> Iterator[_Combination]:
    tasks = [None] if grid.kind == "sequence" else [each for task in grid.tasks for each in _expanded(task, grid)]
    for model, task, method in itertools.product(grid.models, tasks, grid.methods):
        rates = grid.learning_rates if method.learning_rates is None else method.learning_rates
        for rate, order_seed, seed in itertools.product(rates, grid.order_seeds, grid.seeds):
            yield _Combination(
                method=method, model=model, task=task, seed=seed, learning_rate=rate, order_seed=order_seed
            )


def _expanded(task: GridTask, grid: GridConfig) -> list[GridTask]:
    """A task; or the tasks of a group."""
    if task.name not in GROUPS or os.path.exists(task.name):
        return [task]
    if task.label is not None:
        raise ConfigError(f"grid {grid.name}: {task.name} is a group of tasks and cannot have the label {task.label}.")
    return [task.model_copy(update={"name": name}) for name in GROUPS[task.name]]


# ---------------------------------------------------------------------- one run


def _run(
    grid: GridConfig, combination: _Combination, used: list[int], checksum: Callable[[str], str]
) -> GridRun | None:
    settings = _laid_over(grid, combination)
    config = _filled_in(grid, settings)
    rate = config.training.learning_rate
    coordinates = {
        "label": combination.label,
        "method": combination.method.name,
        "strategy": combination.method.strategy,
        "model": combination.model.shown,
        "task": combination.task_label,
        "seed": combination.seed,
        "learning_rate": rate,
        "order_seed": combination.order_seed,
    }
    changed = False
    for number, override in enumerate(grid.overrides):
        if _matches(override.where, coordinates):
            used[number] += 1
            lay_over(settings, override.set)
            changed = True
    left_out = [number for number, where in enumerate(grid.exclude) if _matches(where, coordinates)]
    for number in left_out:
        used[len(grid.overrides) + number] += 1
    if left_out:
        return None
    if changed:
        config = _filled_in(grid, settings)
    _check(config)
    return GridRun(
        grid=grid.name,
        kind=grid.kind,
        label=combination.label,
        model=combination.model.shown,
        task=combination.task_label,
        settings=config.model_dump(mode="json", exclude={"out"}),
        measure=tuple(sorted(set(grid.measure))),
        forgetting_text=_forgetting_text(grid, config),
        curve=None if grid.curve is None else grid.curve.model_dump(mode="json"),
        versions=_versions(grid, config, checksum),
    )


def _laid_over(grid: GridConfig, combination: _Combination) -> Settings:
    """The settings of a combination: base, then the model's, the task's and the method's, then what the grid varies."""
    settings: Settings = {}
    for more in (grid.base, combination.model.settings, {} if combination.task is None else combination.task.settings):
        lay_over(settings, more)
    lay_over(settings, combination.method.settings)
    lay_over(settings, {"method.name": combination.method.name, "training.seed": combination.seed})
    if combination.model.path != "bundled":
        lay_over(settings, {"model.path": combination.model.path})
    if combination.task is not None:
        lay_over(settings, {"data.path": combination.task.name})
    if combination.method.strategy is not None:
        lay_over(settings, {"strategy.name": combination.method.strategy})
    if combination.order_seed is not None:
        lay_over(settings, {"order_seed": combination.order_seed})
    if combination.learning_rate is not None:
        lay_over(settings, {"training.learning_rate": combination.learning_rate})
    return settings


def _matches(where: Mapping[str, Any], coordinates: Mapping[str, Any]) -> bool:
    return all(coordinates[key] in (wanted if isinstance(wanted, list) else [wanted]) for key, wanted in where.items())


def _filled_in(grid: GridConfig, settings: Settings) -> LearningConfig:
    """The configuration with the method's defaults in place of what was left open."""
    config = config_from(RunConfig if grid.kind == "train" else SequenceConfig, settings)
    if isinstance(config, SequenceConfig):  # tasks as written: their order is order_seed's
        as_written = ordered_tasks(config.model_copy(update={"order_seed": None}))
        return with_method_defaults(config.model_copy(update={"tasks": as_written}))
    return with_method_defaults(config)


def _check(config: LearningConfig) -> None:
    """Refuse what a run would refuse, as far as that is known without loading the model."""
    check_settings(config)
    for path in _files(config):
        if _looks_like_a_file(path) and not Path(path).exists():
            raise ConfigError(f"{path}: no such file.")
    for name in _tasks(config):
        _check_task(name)


def _tasks(config: LearningConfig) -> list[str]:
    """What a configuration names to learn or to replay: tasks, files, data sets of the hub."""
    if isinstance(config, RunConfig):
        return [name for name in (config.data.path, *config.data.mix) if name is not None]
    return config.tasks or []


def _check_task(name: str) -> None:
    """Refuse a name that can be neither a task, nor a file, nor a data set of the hub."""
    if os.path.exists(name) or ("/" in name and not is_user_task(name)):
        return
    found = find_tasks([name])
    if name in GROUPS and len(found) > 1:
        raise ConfigError(f"{name} is a group of {len(found)} tasks; list them separately.")


def _looks_like_a_file(path: str) -> bool:
    return path.startswith((".", "/", "~")) or path.endswith((".jsonl", ".json", ".gz", ".yaml", ".py", ".txt"))


def _task_label(task: GridTask) -> str:
    if task.label is not None:
        return task.label
    return Path(task.name).stem if os.path.exists(task.name) else task.name


# ---------------------------------------------------------------------- what else decides a result


def _forgetting_text(grid: GridConfig, config: LearningConfig) -> str | None:
    """The fixed text of a run; refused where it is asked for and there is none."""
    if "forgetting_text" not in grid.measure:
        return None
    if grid.forgetting_text is None and config.model.path is not None:
        raise ConfigError(
            "measure names forgetting_text, and a model of your own needs a text of your own; set forgetting_text to "
            "a file or hub data set, such as HuggingFaceFW/finewiki."
        )
    path = grid.forgetting_text
    if path is not None and _looks_like_a_file(path) and not Path(path).is_file():
        raise ConfigError(f"{path}: no such file.")
    return path


def _versions(grid: GridConfig, config: LearningConfig, checksum: Callable[[str], str]) -> dict[str, Any]:
    """Versions of the scorer and the tasks, checksums of files, and what our own adapters do by default."""
    bundled = config.model.path is None and config.retention.path is None
    known = [name for name in _tasks(config) if not os.path.exists(name) and "/" not in name]
    tasks = [*find_tasks(known), *(find_tasks(["knowledge"]) if bundled else [])]
    tasks += find_tasks(grid.curve.texts) if grid.curve else []
    files = [*_files(config), *filter(None, [grid.forgetting_text if "forgetting_text" in grid.measure else None])]
    return {
        "scoring": SCORING_VERSION,
        "tasks": sorted(task_version_key(task) for task in tasks),
        "files": {path: checksum(path) for path in sorted(files) if os.path.isfile(path)},
        "adapter": _own_adapter_settings(config),
    }


def _own_adapter_settings(config: LearningConfig) -> dict[str, Any]:
    """Every setting of one of our adapters, since its presets may change; PEFT's own ones are PEFT's."""
    from secura.adapters import SecuraConfig

    adapter = None if config.method.name == "full" else adapter_config(config.method.name, config.method.adapter)
    if not isinstance(adapter, SecuraConfig):
        return {}
    of_peft = {each.name for each in fields(PeftConfig)}
    return {key: _plain(value) for key, value in adapter.to_dict().items() if key not in of_peft}


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set | frozenset) else value


def _files(config: LearningConfig) -> Sequence[str]:
    """What a configuration names that may be a file."""
    retained = parted(config.retention.path)[0] if config.retention.path else []
    names = [*retained, config.method.calibration, *_tasks(config)]
    if isinstance(config, RunConfig):
        names.append(config.data.test_path)
    return [file for name in names if name is not None for file in _files_at(name)]


def _files_at(name: str) -> list[str]:
    """The file, or every file of a folder."""
    if not os.path.isdir(name):
        return [name]
    return [str(path) for path in Path(name).rglob("*") if path.is_file()]
