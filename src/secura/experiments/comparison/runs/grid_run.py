"""One run of a grid: its settings, and the name that everything deciding its result gives it."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from secura.errors import DataError
from secura.experiments.comparison.grid.config import Kind, Measure
from secura.experiments.comparison.runs.record_files import record_path
from secura.experiments.settings.layers import config_from
from secura.experiments.settings.run import RunConfig
from secura.experiments.files import write_json
from secura.experiments.settings.sequence import SequenceConfig

PLANNED_FOLDER = "cells"
RUNS_FOLDER = "runs"
LOGS_FOLDER = "logs"


@dataclass(frozen=True, kw_only=True)
class GridRun:
    """One run of a grid, before it is carried out."""

    grid: str
    """Name of the grid."""
    kind: Kind
    """Whether it learns one task or a sequence of them."""
    label: str
    """The method as the grid calls it."""
    model: str
    """The model as the grid calls it."""
    task: str
    """The task as the grid calls it, or `sequence`."""
    settings: Mapping[str, Any]
    """The configuration, the method's habits in place of what was left open; no folder."""
    measure: tuple[Measure, ...] = ()
    """What is measured besides the questions, sorted."""
    forgetting_text: str | None = None
    """The fixed text to measure forgetting on, where it is not the bundled one."""
    versions: Mapping[str, Any]
    """Versions of the scorer and of the tasks, checksums of files: what decides the result besides the settings."""

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return self.settings["training"]["seed"]

    @property
    def learning_rate(self) -> float:
        """Peak learning rate."""
        return self.settings["training"]["learning_rate"]

    @property
    def name(self) -> str:
        """`label-task-seed-` and ten digits of a checksum; the same on every machine."""
        deciding = {
            "kind": self.kind,
            "settings": self.settings,
            "measure": list(self.measure),
            "forgetting_text": self.forgetting_text,
            "versions": self.versions,
        }
        canonical = json.dumps(deciding, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
        checksum = hashlib.sha256(canonical.encode()).hexdigest()[:10]
        return "-".join([_file_name(self.label), _file_name(self.task), str(self.seed), checksum])

    @property
    def steps(self) -> int | None:
        """Optimizer steps of the run, where the settings say so; for a sequence, of all its tasks."""
        steps, tasks = self.settings["training"]["steps"], self.settings.get("tasks")
        return None if steps is None else steps * (len(tasks) if tasks else 1)

    def run_config(self, out: Path) -> RunConfig:
        """The configuration of a run that learns one task, in the folder `out`."""
        return config_from(RunConfig, {**self.settings, "out": str(out)})

    def sequence_config(self, out: Path) -> SequenceConfig:
        """The configuration of a sequence, in the folder `out`."""
        return config_from(SequenceConfig, {**self.settings, "out": str(out)})


@dataclass(frozen=True, kw_only=True)
class GridRunFiles:
    """Where everything of a run lies: in DIR/GRID, the folder of its grid."""

    folder: Path
    """Folder of the comparison, DIR."""
    grid: str
    """Name of the grid."""
    name: str
    """Name of the run."""

    @property
    def grid_run(self) -> Path:
        """What is to be done."""
        return self.folder / self.grid / PLANNED_FOLDER / f"{self.name}.json"

    @property
    def run(self) -> Path:
        """Folder of the run: adapter, checkpoints, log of the steps."""
        return self.folder / self.grid / RUNS_FOLDER / self.name

    @property
    def log(self) -> Path:
        """What the run printed."""
        return self.folder / self.grid / LOGS_FOLDER / f"{self.name}.log"

    @property
    def lock(self) -> Path:
        """Held by the process that carries it out."""
        return self.folder / self.grid / LOGS_FOLDER / f"{self.name}.lock"

    @property
    def record(self) -> Path:
        """What came of it."""
        return record_path(self.folder, self.grid, self.name)


def files_of(grid_run: GridRun, folder: Path) -> GridRunFiles:
    """Where everything of a run lies, in the folder of a comparison."""
    return GridRunFiles(folder=folder, grid=grid_run.grid, name=grid_run.name)


def write_grid_run(grid_run: GridRun, folder: Path) -> Path:
    """Store a run, whole or not at all; returns its file."""
    path = files_of(grid_run, folder).grid_run
    write_json(path, asdict(grid_run))
    return path


def read_grid_run(path: Path) -> tuple[GridRun, GridRunFiles]:
    """A stored run, and where everything of it lies.

    Raises:
        DataError: if the file is no run, or one that was changed since it was named.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        grid_run = GridRun(**{**stored, "measure": tuple(stored["measure"])})
        name = grid_run.name
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError) as problem:
        raise DataError(f"{path} is not a run of a grid: {problem}.") from problem
    if path.stem != name:
        raise DataError(f"{path} holds the run {name}; it was changed by hand, so change the grid instead.")
    return grid_run, GridRunFiles(folder=path.absolute().parents[2], grid=grid_run.grid, name=name)


def stored_grid_runs(folder: Path) -> list[tuple[GridRun, GridRunFiles]]:
    """Every run that was planned in a comparison."""
    return [read_grid_run(path) for path in sorted(folder.glob(f"**/{PLANNED_FOLDER}/*.json"))]


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.]+", "_", text).strip("_") or "run"
