"""The switchboard of engines: from a name and settings to one."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from secura.errors import ConfigError
from secura.experiments.comparison.engines.engine import Engine
from secura.experiments.comparison.engines.slurm_engine import SlurmEngine, SlurmSettings
from secura.experiments.settings.layers import yaml_assignment

EngineName = Literal["local", "ray", "slurm"]
Settings = TypeVar("Settings")


@dataclass(frozen=True, kw_only=True)
class RaySettings:
    """What may be set about Ray; see `RayEngine`."""

    address: str | None = None
    """Of the cluster."""
    cpus: float = 1
    """CPUs that a job takes."""
    gpus: float | None = None
    """GPUs that a job takes; null is one where the cluster has any."""


def make_engine(name: EngineName, *, folder: Path, workers: int | None, assignments: Sequence[str] = ()) -> Engine:
    """Build an engine.

    Args:
        name: which one.
        folder: of the comparison.
        workers: runs at a time; None is as many as there is room for, on Slurm the default throttle.
        assignments: texts such as `partition=gpu`, for ray and slurm.

    Raises:
        ConfigError: for a setting it does not have, naming the nearest, or a value it refuses.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers is {workers}; give the number of runs at a time, at least 1.")
    if name == "ray":
        from secura.experiments.comparison.engines.ray_engine import RayEngine

        return RayEngine(workers=workers, **asdict(_settings(RaySettings, name, assignments)))
    if name == "slurm":
        at_once = [] if workers is None else [f"at_once={workers}"]
        settings = _settings(SlurmSettings, name, [*assignments, *at_once])
        return SlurmEngine(folder=folder / "slurm", settings=settings)
    if assignments:
        raise ConfigError(f"engine local has no settings, but got {assignments[0]!r}; leave it out.")
    from secura.experiments.comparison.engines.local_engine import LocalEngine

    return LocalEngine(workers=workers)


def _settings(kind: type[Settings], name: str, assignments: Sequence[str]) -> Settings:
    known = [each.name for each in fields(kind)]  # type: ignore[arg-type]  # both kinds are dataclasses
    values: dict[str, Any] = {}
    for key, value in map(yaml_assignment, assignments):
        if key not in known:
            near = get_close_matches(key, known, n=1, cutoff=0.0)[0]
            raise ConfigError(f"engine {name} has no setting {key!r}; the nearest is {near}.")
        values[key] = value
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as problem:
        error = problem.errors()[0]
        where = ".".join(map(str, error["loc"]))
        raise ConfigError(f"engine {name}: {where} is {error['input']!r}; {error['msg']}.") from problem
