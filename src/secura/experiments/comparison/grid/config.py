"""A declared grid: methods × models × tasks × seeds × learning rates, with what they share.

name: performance
include: [../shared/bundled.yaml]            # laid under this file, relative to it
base: {training: {steps: 150}}               # as in secura train; dotted keys work too
methods:
  - lora
  - {label: SECURA M1, name: secura-paper, settings: {method.adapter.r: 8}, learning_rates: [1e-2]}
tasks: [own_things, {name: two_steps, settings: {training.steps: 300}}]
seeds: [0, 1, 2]
overrides: [{where: {task: two_steps, label: lora}, set: {training.batch_size: 8}}]
exclude: [{label: lora, seed: 2}]
measure: [spectra, gradient_norms]
"""

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from secura.errors import ConfigError
from secura.experiments.settings.layers import assign, config_from, read_yaml, yaml_assignment
from secura.experiments.settings.run import RunConfig, Section
from secura.experiments.settings.sequence import SequenceConfig
from secura.file_names import file_name
from secura.tasks.finding import find_tasks

Kind = Literal["train", "sequence"]
Measure = Literal["spectra", "gradient_norms", "forgetting_text"]
Settings = dict[str, Any]

TOLD_APART_BY = ("label", "method", "strategy", "model", "task", "seed", "learning_rate", "order_seed")
"""What overrides and exclusions name runs by."""
_GIVEN_BY_THE_GRID = ("out", "data.path", "method.name", "strategy.name", "model.path", "training.seed", "order_seed")


class GridMethod(Section):
    """One way to learn; a bare name stands for a method with its own settings."""

    name: str = "secura"
    """A method of `secura train`."""
    label: str | None = None
    """Name in tables and figures; null is the method's name, with its strategy's name if it has one."""
    strategy: str | None = None
    """A strategy of `secura sequence`; for kind train, one that `secura train` takes."""
    settings: Settings = Field(default_factory=dict)
    """Settings that differ from `base`."""
    learning_rates: list[float | None] | None = None
    """Learning rates to use instead of the grid's."""

    @property
    def shown(self) -> str:
        """What tables and figures call it."""
        return self.label or " + ".join(filter(None, (self.name, self.strategy)))


class GridModel(Section):
    """One base model; a bare name stands for its folder or hub id, or is `bundled`."""

    path: str = "bundled"
    """Folder or hub id, or bundled."""
    label: str | None = None
    """Name in tables and figures; null is the path."""
    settings: Settings = Field(default_factory=dict)
    """Settings that differ from `base`."""

    @property
    def shown(self) -> str:
        """What tables and figures call it."""
        return self.label or self.path


class GridTask(Section):
    """One thing to learn; a bare name stands for it with the settings of `base`."""

    name: str
    """A bundled or catalogue task, a group of tasks, a file, or a hub data set."""
    label: str | None = None
    """Name in tables and figures; null is the name."""
    settings: Settings = Field(default_factory=dict)
    """Settings that differ from `base`."""


class Override(Section):
    """Settings of some of the runs."""

    where: Settings
    """Which runs: label, method, strategy, model, task, seed, learning_rate, order_seed; a value or a list."""
    set: Settings
    """The settings that change for these runs."""


class CurveConfig(Section):
    """The points of a run at which learning and forgetting are measured."""

    texts: list[str] = Field(min_length=1)
    """Tasks that are never trained on: plain texts, or questions whose right answers are scored."""
    steps: list[Annotated[int, Field(ge=1)]] = Field(default_factory=list)
    """Optimizer steps after which the run is measured, besides the last one."""
    dial: list[Annotated[float, Field(ge=0)]] = Field(default_factory=list)
    """Factors, besides 1, by which the learned change is scaled at the end."""
    text_rows: int = Field(default=10, ge=1)
    """Rows of each text."""
    text_tokens: int = Field(default=128, ge=2)
    """Tokens at which a plain text is cut."""
    questions: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    """Tasks or groups that are never trained on, and how many questions of each task are asked: of the base, and at
    each point of the dial those that the base answers right."""


class GridConfig(Section):
    """A grid of runs."""

    name: str
    """Name of the grid, and of its folder."""
    kind: Kind = "train"
    """train for one task per run, sequence for tasks one after another."""
    base: Settings = Field(default_factory=dict)
    """Settings of all runs, as in the files of `secura train` or `secura sequence`; dotted keys work too."""
    methods: list[GridMethod] = Field(min_length=1)
    """Ways to learn."""
    models: list[GridModel] = Field(default_factory=lambda: [GridModel()], min_length=1)
    """Base models."""
    tasks: list[GridTask] = Field(default_factory=list)
    """For kind train, what to learn; a sequence has its tasks under base."""
    seeds: list[int] = Field(default_factory=lambda: [0], min_length=1)
    """Seeds of the runs."""
    learning_rates: list[float | None] = Field(default_factory=lambda: [None], min_length=1)
    """Peak learning rates; null is the one in the settings, or the method's default."""
    order_seeds: list[int | None] = Field(default_factory=lambda: [None], min_length=1)
    """For sequences, seeds that shuffle the tasks; null keeps the written order."""
    overrides: list[Override] = Field(default_factory=list)
    """Settings of some of the runs; later ones win."""
    exclude: list[Settings] = Field(default_factory=list)
    """Runs to leave out, named as in `where`."""
    measure: list[Measure] = Field(default_factory=list)
    """What is measured besides the questions: spectra, gradient_norms, forgetting_text."""
    forgetting_text: str | None = None
    """File or hub data set of the fixed text; null is plain sentences of the bundled model's world."""
    curve: CurveConfig | None = None
    """For kind train, whether runs are also measured during training and with their change scaled back."""

    @property
    def conditions(self) -> list[tuple[str, Settings]]:
        """Everything that names some of the runs, with where it stands: overrides first."""
        return [
            *((f"overrides[{index}].where", each.where) for index, each in enumerate(self.overrides)),
            *((f"exclude[{index}]", each) for index, each in enumerate(self.exclude)),
        ]

    @field_validator("methods", "tasks", mode="before")
    @classmethod
    def _by_name(cls, given: Any) -> Any:
        return _with_bare_names(given, "name")

    @field_validator("models", mode="before")
    @classmethod
    def _by_path(cls, given: Any) -> Any:
        return _with_bare_names(given, "path")


def _with_bare_names(given: Any, key: str) -> Any:
    return [{key: each} if isinstance(each, str) else each for each in given] if isinstance(given, list) else given


def load_grid(file: Path, assignments: Sequence[str] = ()) -> GridConfig:
    """Read a grid with what it includes.

    Args:
        file: a YAML file.
        assignments: texts such as `base.training.steps=10`, laid over it.

    Raises:
        ConfigError: for a file that cannot be read or includes itself, an unknown key or a wrong value.
    """
    values = _read_with_includes(file, ())
    for assignment in assignments:
        assign(values, *yaml_assignment(assignment))
    try:
        grid = config_from(GridConfig, values)
        check_grid_name(grid.name)
        _check_shape(grid)
        _check_conditions(grid)
        if grid.curve is not None:
            find_tasks([*grid.curve.texts, *grid.curve.questions])
        for place, settings in _settings_of(grid):
            _check_section(place, settings, grid.kind)
    except ConfigError as problem:
        raise ConfigError(f"{file}: {problem}") from problem
    return grid


def check_grid_name(name: str) -> None:
    """Refuse a name that cannot be that of a folder.

    Raises:
        ConfigError: with one that could.
    """
    if name != file_name(name):
        raise ConfigError(f"name is {name[:100]!r}, but a grid's folder is called so; try {file_name(name)!r}.")


def _read_with_includes(file: Path, includers: tuple[Path, ...]) -> Settings:
    place = file.resolve()
    if place in includers:
        chain = " includes ".join(path.name for path in (*includers[includers.index(place) :], place))
        raise ConfigError(f"{chain}: files must not include each other in a circle.")
    values = read_yaml(file)
    included = values.pop("include", [])
    included = [included] if isinstance(included, str) else included
    if not isinstance(included, list) or not all(isinstance(each, str) for each in included):
        raise ConfigError(f"{file}: include should be a list of YAML files.")
    under: Settings = {}
    for each in included:
        lay_over(under, _read_with_includes(file.parent / each, (*includers, place)))
    lay_over(under, values)
    return under


def _check_shape(grid: GridConfig) -> None:
    if grid.kind == "train" and not grid.tasks:
        raise ConfigError("tasks is empty; list at least one task, or set kind to sequence.")
    if grid.kind == "sequence" and grid.tasks:
        raise ConfigError("a sequence has its tasks under base.tasks; move them there.")
    if grid.kind == "sequence" and grid.curve is not None:
        raise ConfigError("curve belongs to kind train; leave it out.")
    if grid.kind == "train" and grid.order_seeds != [None]:
        raise ConfigError("order_seeds belong to kind sequence; leave them out.")
    listed: dict[str, list[Any]] = {"methods": [each.shown for each in grid.methods], "seeds": [*grid.seeds]}
    for what, names in listed.items():
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ConfigError(f"{what} names {twice[0]!r} twice; give each its own label.")


def _check_conditions(grid: GridConfig) -> None:
    """Refuse a condition that names what runs are not told apart by, or that no value can meet."""
    for section, condition in grid.conditions:
        for key, value in condition.items():
            if key not in TOLD_APART_BY:
                near = get_close_matches(str(key), TOLD_APART_BY, n=1, cutoff=0.0)[0]
                raise ConfigError(
                    f"{section}: runs are not told apart by {key!r}; the nearest is {near}, all are "
                    f"{', '.join(TOLD_APART_BY)}."
                )
            if any(isinstance(each, dict | list) for each in (value if isinstance(value, list) else [value])):
                raise ConfigError(f"{section}: {key} should be a value, or a list of values.")


def _settings_of(grid: GridConfig) -> Iterator[tuple[str, Settings]]:
    """Each section of settings, with where it stands."""
    yield "base", grid.base
    for kind in ("methods", "models", "tasks"):
        for index, each in enumerate(getattr(grid, kind)):
            yield f"{kind}[{index}].settings", each.settings
    for index, override in enumerate(grid.overrides):
        yield f"overrides[{index}].set", override.set


def _check_section(place: str, settings: Settings, kind: Kind) -> None:
    """Refuse a section with an unknown key, a wrong value, or what the grid gives each run."""
    nested: Settings = {}
    try:
        lay_over(nested, settings)
        config_from(RunConfig if kind == "train" else SequenceConfig, nested)
    except ConfigError as problem:
        raise ConfigError(f"{place}: {problem}") from problem
    for path in _GIVEN_BY_THE_GRID:
        section, _, key = path.rpartition(".")
        if (nested.get(section) or {} if section else nested).get(key) is not None:
            raise ConfigError(
                f"{place} names {path}, which the grid gives each run; leave it out (methods, models, tasks and seeds "
                "are lists of the grid)."
            )


def lay_over(values: Settings, more: Settings) -> None:
    """Put settings over others: sections are merged, anything else is replaced; keys may be dotted."""
    for key, value in more.items():
        for path, inner in _leaves(str(key), value):
            assign(values, path, inner)


def _leaves(path: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        return [leaf for key, inner in value.items() for leaf in _leaves(f"{path}.{key}", inner)]
    return [(path, value)]
