"""Python files that settings name as tasks: they are run, so a folder alone must not name one.

A folder of a run travels between people, and its config.yaml with it. What it names is run only where this command
line names it too, or says `--trust-tasks`.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from secura.errors import ConfigError
from secura.experiments.files import ADAPTER_FOLDER, BASE_RECORD, LOG_FILE, MATRIX_FILE, RUN_RECORD
from secura.experiments.settings.layers import assign, yaml_assignment

TRUST_OPTION = "--trust-tasks"
_LEFT_BY_RUNS = (
    BASE_RECORD,
    RUN_RECORD,
    LOG_FILE,
    MATRIX_FILE,
    f"{ADAPTER_FOLDER}/adapter_config.json",
    "checkpoint-*",
)
"""By any of these the folder of a run or a sequence is known, whichever of the others were taken out of it."""


def python_tasks(config: BaseModel) -> list[str]:
    """Every Python file that a configuration names, whatever for."""
    return list(dict.fromkeys(_python_files(config.model_dump(exclude={"out"}))))


def is_settings_of_run(file: Path, out: str | None) -> bool:
    """Whether a file of settings lies in the folder of a run, and so may be another person's."""
    folder = file.resolve().parent
    beside = any(True for name in _LEFT_BY_RUNS for _ in folder.glob(name))
    return beside or (out is not None and folder == Path(out).resolve())


def refuse_foreign_tasks(
    config: BaseModel,
    file: Path,
    *,
    trust: bool,
    assignments: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
) -> None:
    """Refuse to run a Python file that the settings in a run's own folder name, and this command line does not.

    Args:
        config: the settings, as `file` and the command line make them.
        file: the settings in the folder.
        trust: whether the user has said that they may be run.
        assignments: the texts of `--set`.
        flags: values by dotted path.

    Raises:
        ConfigError: naming the file, and how to allow it.
    """
    if trust:
        return
    given: dict[str, Any] = {}
    for path, value in [*map(yaml_assignment, assignments), *(flags or {}).items()]:
        if value is not None:
            assign(given, path, value)
    given.pop("out", None)
    named = {Path(name).resolve() for name in _python_files(given)}
    for name in python_tasks(config):
        if Path(name).resolve() not in named:
            raise ConfigError(
                f"{file} names {name}, a Python file that would be run; look at it, then add {TRUST_OPTION} to run it."
            )


def _python_files(value: Any) -> Iterable[str]:
    if isinstance(value, Mapping):
        for each in (*value, *value.values()):  # data.mix names its sources by its keys
            yield from _python_files(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _python_files(each)
    elif isinstance(value, str):
        yield from (name for part in value.split(",") if (name := part.strip()).endswith(".py"))
