"""The form of a new run: its fields, the YAML that they make, and what is wrong with it before anything starts.

The YAML is what `secura train` reads, and the settings' own code checks it.
"""

import itertools
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from secura.errors import ConfigError, InputError
from secura.experiments.methods.checks import check_settings
from secura.experiments.methods.defaults import with_method_defaults
from secura.experiments.models.gguf import PACKAGED_MODELS
from secura.experiments.models.loading import check_loading
from secura.experiments.run.packages import check_packages
from secura.experiments.settings.layers import assign, config_from, yaml_assignment
from secura.experiments.settings.names import METHOD_NAMES
from secura.experiments.settings.run import RunConfig
from secura.experiments.settings.trusted_tasks import python_tasks
from secura.file_names import file_name
from secura.studio.entries import folder_called
from secura.tasks.finding import GROUPS
from secura.tasks.world import NEW_TASKS


@dataclass(frozen=True, kw_only=True)
class Field:
    """One field of the form."""

    name: str
    """In the form."""
    setting: str
    """What it sets; empty for what is no setting."""
    label: str
    """What a reader sees."""
    hint: str
    """What may be in it, and what comes of leaving it empty."""
    choices: tuple[str, ...] = ()
    """All that it can be; empty where it is free."""
    suggestions: tuple[str, ...] = ()
    """Some of what it can be."""
    is_text: bool = False
    """Whether it is taken as it stands; otherwise it is read as YAML reads it, such as a number."""
    keyboard: str = "text"
    """What a phone shows to type it with."""


FIELDS: tuple[Field, ...] = (
    Field(
        name="model",
        setting="model.path",
        label="Model",
        hint="A folder, a GGUF file or a hub id. Empty is the small model that comes with secura.",
        suggestions=tuple(PACKAGED_MODELS),
        is_text=True,
    ),
    Field(
        name="data",
        setting="data.path",
        label="Data",
        hint="A file (JSON Lines, JSON, CSV, Parquet), a folder, a hub data set or a task. Empty is a bundled task.",
        suggestions=tuple(NEW_TASKS),
        is_text=True,
    ),
    Field(
        name="retain",
        setting="retention.path",
        label="Retain",
        hint="What must not be lost: files of questions and tasks, by commas. Empty asks general knowledge.",
        suggestions=(*GROUPS, "none"),
        is_text=True,
    ),
    Field(
        name="keep",
        setting="retention.keep",
        label="Keep",
        hint="Share of the right answers to keep and to certify, such as 0.98. Empty only measures.",
        keyboard="decimal",
    ),
    Field(
        name="method",
        setting="method.name",
        label="Method",
        hint="Empty is secura on the bundled model, LoRA on any other.",
        choices=METHOD_NAMES,
        is_text=True,
    ),
    Field(
        name="steps",
        setting="training.steps",
        label="Steps",
        hint="Empty is one pass over the data.",
        keyboard="numeric",
    ),
    Field(
        name="learning_rate",
        setting="training.learning_rate",
        label="Learning rate",
        hint="Empty is the method's own; auto tries three.",
        keyboard="text",
    ),
    Field(
        name="batch_size",
        setting="training.batch_size",
        label="Batch",
        hint="Rows of a forward pass; empty is 16.",
        keyboard="numeric",
    ),
    Field(
        name="seed",
        setting="training.seed",
        label="Seed",
        hint="Empty is 0.",
        keyboard="numeric",
    ),
)
NAME = "name"
MORE = "more"
"""The field of all other settings, one a line."""


class FormError(Exception):
    """What is wrong with a form, in a sentence, and the field that it is about; that is empty for the whole form."""

    def __init__(self, sentence: str, field: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.field = field


def checked_settings(form: Mapping[str, str]) -> dict[str, Any]:
    """The settings that a form sets, checked by the settings' own code; nothing is read or loaded yet.

    Raises:
        FormError: for what `secura train` would refuse before it reads a row.
    """
    values: dict[str, Any] = {}
    try:
        for field in FIELDS:
            text = form.get(field.name, "").strip()
            if text:
                assign(values, field.setting, text if field.is_text else yaml_assignment(f"{field.setting}={text}")[1])
        for line in form.get(MORE, "").splitlines():
            if line.strip():
                assign(values, *yaml_assignment(line))
        config = config_from(RunConfig, values)
        _refuse_what_a_form_may_not(config)
        config = with_method_defaults(config)
        check_settings(config)
        check_loading(config.model)
        check_packages(config)
    except InputError as problem:
        raise FormError(str(problem), field_of(str(problem))) from problem
    return values


def field_of(sentence: str) -> str:
    """The field that an error is about: the one whose setting, option or name it has first."""
    places: dict[str, int] = {}
    for field in FIELDS:
        names = (field.setting, f"--{field.name}", f"unknown {field.name} ")
        found = [sentence.find(name) for name in names if name in sentence]
        if sentence.startswith(f"{field.name} "):
            found.append(0)
        if found:
            places[field.name] = min(found)
    return min(places, key=lambda name: places[name]) if places else ""


def settings_as_yaml(values: Mapping[str, Any]) -> str:
    """The settings as `secura train` reads them; whatever is not there keeps its default."""
    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True) if values else "{}\n"


def name_for(root: Path, form: Mapping[str, str], values: Mapping[str, Any], is_taken: Any) -> str:
    """The name of the new run's folder: the one given, or one for what is done that is still free.

    Args:
        root: the folder that it will lie in.
        form: as it was sent.
        values: what it sets.
        is_taken: whether a name is that of a run already.

    Raises:
        FormError: if the name is no name of a folder, or is taken.
    """
    given = form.get(NAME, "").strip()
    if given:
        if file_name(given) != given or folder_called(root, given) is None:
            raise FormError(
                f"{given!r} is no name of a folder; use letters, digits, '_', '-' and '.', such as {file_name(given)}.",
                NAME,
            )
        if is_taken(given):
            raise FormError(f"{given} is there already; take another name.", NAME)
        return given
    data = str(values.get("data", {}).get("path") or "")
    stem = Path(data.split(":")[0]).name.split(".")[0]
    method = str(values.get("method", {}).get("name") or ("lora" if "model" in values else "secura"))
    first = file_name("-".join(part for part in (method, stem) if part))
    names = itertools.chain([first], (f"{first}-{number}" for number in itertools.count(2)))
    return next(name for name in names if not is_taken(name))


def form_of(settings: Mapping[str, Any]) -> dict[str, str]:
    """The form that sets the same, such as to do a run again with a change."""
    flat = dict(_flat(settings))
    form = {}
    for field in FIELDS:
        value = flat.pop(field.setting, None)
        if value is not None:
            form[field.name] = value if isinstance(value, str) else _shown(value)
    form[MORE] = "\n".join(f"{setting}={_shown(value)}" for setting, value in flat.items())
    return form


def set_by_hand(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of the settings that a run's folder has, those that are not as they are by default; not where it lies."""
    default = dict(_flat(RunConfig().model_dump()))
    values: dict[str, Any] = {}
    for setting, value in _flat(settings):
        if setting != "out" and default.get(setting) != value:
            assign(values, setting, value)
    return values


def command_shown(settings: str, folder: str) -> str:
    """What to type for the same run."""
    return f"secura train {shlex.quote(settings)} --out {shlex.quote(folder)}"


def _refuse_what_a_form_may_not(config: RunConfig) -> None:
    if config.out is not None:
        raise ConfigError("out is the folder of the run, which the studio chooses; leave it out, and give a name.")
    files = python_tasks(config)
    if files:
        raise ConfigError(
            f"{files[0]} is a Python file, and the studio runs none; start this run in a terminal, with secura train."
        )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Any:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value and all(isinstance(each, str) for each in value):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + str(key), value


def _shown(value: Any) -> str:
    """A value on one line, as YAML reads it."""
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).strip().removesuffix("...").strip()
