"""From YAML, `--set` and flags to one strict configuration; and back to YAML."""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from secura.errors import ConfigError
from secura.experiments.settings.names import METHOD_NAMES, STRATEGY_NAMES
from secura.experiments.settings.run import RunConfig
from secura.experiments.settings.synonyms import meant_by

Config = TypeVar("Config", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads `1e-3` as a text, for want of a dot; everyone who writes it means a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load_config(
    file: str | None = None,
    assignments: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
) -> RunConfig:
    """The configuration of `secura train`; see `load_config_of`."""
    return load_config_of(RunConfig, file, assignments, flags)


def load_config_of(
    kind: type[Config],
    file: str | None = None,
    assignments: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
) -> Config:
    """Lay the defaults, a YAML file, `a.b=c` assignments and flags over each other.

    Args:
        kind: the configuration, a strict pydantic model.
        file: path of a YAML file, or None.
        assignments: texts such as `training.steps=200`; the value is read as YAML.
        flags: values by dotted path; None stands for a flag that was not given.

    Raises:
        ConfigError: for an unknown key (the nearest known one is named), a value of the
            wrong type or out of range, or a file that cannot be read.
    """
    values = read_yaml(Path(file)) if file else {}
    for assignment in assignments:
        assign(values, *yaml_assignment(assignment))
    for path, value in (flags or {}).items():
        if value is not None:
            assign(values, path, value)
    return config_from(kind, values)


def config_from(kind: type[Config], values: Mapping[str, Any]) -> Config:
    """The configuration that nested values make.

    Raises:
        ConfigError: for an unknown key, or a value of the wrong type or out of range.
    """
    for key, value in _flat(dict(values)).items():
        if "\0" in (key + value if isinstance(value, str) else key):  # no file system takes it
            raise ConfigError(f"{key} holds a character of number 0, {value!r}; take it out.")
    try:
        return kind.model_validate(values)
    except ValidationError as problem:
        raise ConfigError(_explain(problem, kind)) from problem


def config_as_yaml(config: BaseModel) -> str:
    """The whole configuration, each setting with its meaning as a comment."""
    lines: list[str] = []
    _write(config, lines, indent="")
    return "\n".join(lines) + "\n"


def differences(old: BaseModel, new: BaseModel) -> list[str]:
    """The settings in which two configurations differ, such as `training.steps: 100, now 200`."""
    before, after = _flat(old.model_dump()), _flat(new.model_dump())
    return [
        f"{key} was {before.get(key)!r}, now {after.get(key)!r}"
        for key in dict.fromkeys([*before, *after])
        if before.get(key) != after.get(key)
    ]


def read_yaml(path: Path) -> dict[str, Any]:
    """The settings in a YAML file.

    Raises:
        ConfigError: if it cannot be read, is not YAML, or holds no settings.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as problem:
        raise ConfigError(f"{path}: no such configuration file ({problem.strerror}).") from problem
    except RecursionError as problem:
        raise ConfigError(f"{path} is nested too deeply to be read; settings have a few levels.") from problem
    except (yaml.YAMLError, ValueError) as problem:  # also bytes that are no text, and dates that are none
        raise ConfigError(f"{path} is not YAML: {' '.join(str(problem).split())}.") from problem
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds {type(values).__name__}, not settings such as 'training: {{steps: 100}}'.")
    return values


def yaml_assignment(assignment: str) -> tuple[str, Any]:
    """Path and value of a text such as `training.steps=200`; the value is read as YAML.

    Raises:
        ConfigError: if it is of another form.
    """
    path, separator, text = assignment.partition("=")
    if not separator or not path.strip():
        raise ConfigError(f"--set {assignment!r} is not of the form a.b=value.")
    try:
        return path.strip(), yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as problem:
        raise ConfigError(f"--set {assignment[:200]!r}: the value is not YAML.") from problem


def assign(values: dict[str, Any], path: str, value: Any) -> None:
    """Put a value at a dotted path of nested settings.

    Raises:
        ConfigError: if something that is not a section stands in the way.
    """
    *sections, last = path.split(".")
    for section in sections:
        inner = values.get(section)
        if inner is None:
            inner = values[section] = {}
        if not isinstance(inner, dict):
            raise ConfigError(f"{path}: {section} is {_shown(inner)}, not a section.")
        values = inner
    values[last] = value


def _explain(problem: ValidationError, kind: type[BaseModel]) -> str:
    """What is wrong, in one line: an unknown key before all else, since it may be why another is missing."""
    errors = problem.errors()
    error = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])
    *holder, key = error["loc"]
    place, section = _place(holder, kind)
    if error["type"] == "extra_forbidden":
        meant = setting_called(str(key), kind)
        if meant is not None:
            return f"unknown setting {_joined(place, key)}; here it is {meant}."
        return f"unknown setting {_joined(place, key)}; the nearest is {_nearest(str(key), place, section, kind)}."
    if error["type"] == "missing":
        return f"{place or 'this'} has no {key}; give it one."
    place, _ = _place(error["loc"], kind)
    if place in _NAMES:
        what, names = place.partition(".")[0], _NAMES[place]
        near = get_close_matches(str(error["input"]), names, n=1, cutoff=0.0)
        return f"unknown {what} {_shown(error['input'])}; the nearest is {near[0]}, all are {', '.join(names)}."
    message = _KINDS.get(error["type"], error["msg"][:1].lower() + error["msg"][1:])
    return f"{place} is {_shown(error['input'])}: {message}."


_NAMES: Mapping[str, Sequence[str]] = {"method.name": METHOD_NAMES, "strategy.name": STRATEGY_NAMES}
_KINDS = {"list_type": "it should be a list"}
_KINDS |= dict.fromkeys(("dict_type", "model_type"), "it should be a section, such as {name: value}")


def _shown(value: Any) -> str:
    """A value that stands alone; of a section or a list, that it is one."""
    if value and isinstance(value, dict | list):
        return "a section" if isinstance(value, dict) else "a list"
    return repr(value)


def _joined(place: str, key: object) -> str:
    return f"{place}.{key}" if place else str(key)


def _place(path: Sequence[str | int], kind: type[BaseModel]) -> tuple[str, type[BaseModel]]:
    """Where something stands, as its file has it, and the section it is in; not which part of a union was tried."""
    place, section, here = "", kind, kind
    for part in path:
        here = _without_none(here)
        if isinstance(part, int):
            place += f"[{part}]"
            here = next(iter(get_args(here)), None)
        elif isinstance(here, type) and issubclass(here, BaseModel):
            place, field = _joined(place, part), here.model_fields.get(part)
            here = None if field is None else field.annotation
        elif get_origin(here) is dict:
            place, here = _joined(place, part), None
        else:
            break
        here = _without_none(here)
        if isinstance(here, type) and issubclass(here, BaseModel):
            section = here
    return place, section


def _without_none(annotation: Any) -> Any:
    others = [each for each in get_args(annotation) if each is not NoneType]
    return others[0] if NoneType in get_args(annotation) and len(others) == 1 else annotation


def _nearest(key: str, place: str, section: type[BaseModel], kind: type[BaseModel]) -> str:
    """The setting that a key was probably meant to be: of the same section, or else of that name in another."""
    near = get_close_matches(key, section.model_fields, n=1, cutoff=0.6)
    if near:
        return _joined(place, near[0])
    elsewhere = _by_last_part(kind)
    near = get_close_matches(key, elsewhere, n=1, cutoff=0.6)
    if near:
        return elsewhere[near[0]]
    return _joined(place, get_close_matches(key, section.model_fields, n=1, cutoff=0.0)[0])


def setting_called(name: str, kind: type[BaseModel] = RunConfig) -> str | None:
    """Where the setting of a name is: by its own last part, or by what other trainers call it; None if nowhere.

    Returns:
        Its path, such as `training.learning_rate`, or with a value that is meant, such as `training.precision=bf16`.
    """
    key = name.strip().lower().replace("-", "_")
    meant = _by_last_part(kind).get(key) or meant_by(key)
    path, fields = (meant or "").partition("=")[0], _flat_fields(kind)
    return meant if path in fields or path.rpartition(".")[0] in fields else None


def _by_last_part(kind: type[BaseModel]) -> dict[str, str]:
    return {path.rsplit(".", 1)[-1]: path for path in reversed(_flat_fields(kind))}


def _flat_fields(model: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            fields |= _flat_fields(kind, f"{prefix}{name}.")
        else:
            fields[prefix + name] = field
    return fields


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + str(key)] = value
    return flat


def _write(section: BaseModel, lines: list[str], indent: str) -> None:
    for name, field in type(section).model_fields.items():
        value, meaning = getattr(section, name), " ".join(str(field.description).split())
        if isinstance(value, BaseModel):
            lines.append(f"{indent}{name}:  # {meaning}")
            _write(value, lines, indent + "  ")
            continue
        dumped = yaml.safe_dump({name: value}, default_flow_style=False, width=1000, sort_keys=False)
        first, *rest = dumped.rstrip("\n").split("\n")
        if rest:
            lines.append(f"{indent}# {meaning}")
            lines.extend(indent + line for line in (first, *rest))
        else:
            lines.append(f"{indent}{first}  # {meaning}")
