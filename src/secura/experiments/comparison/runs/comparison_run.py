"""A run of a grid in the folder of a comparison: where everything of it lies, and how far it is."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from secura.errors import DataError
from secura.experiments.comparison.grid.config import check_grid_name
from secura.experiments.comparison.grid.grid_run import GridRun
from secura.experiments.comparison.runs.record_files import read_record, record_path
from secura.json_text import read_json
from secura.whole_files import write_json

DECLARED_FOLDER = "cells"
RUNS_FOLDER = "runs"
LOGS_FOLDER = "logs"

State = Literal["done", "failed", "left"]


@dataclass(frozen=True, kw_only=True)
class ComparisonRun:
    """A run of a grid with the files it has in DIR/GRID, the folder of its grid."""

    declared: GridRun
    """What is to be done."""
    folder: Path
    """Folder of the comparison, DIR."""

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.declared.name

    @property
    def grid(self) -> str:
        """Name of its grid."""
        return self.declared.grid

    @property
    def declaration_file(self) -> Path:
        """What is to be done."""
        return self.folder / self.grid / DECLARED_FOLDER / f"{self.name}.json"

    @property
    def run_folder(self) -> Path:
        """Adapter, checkpoints, log of the steps."""
        return self.folder / self.grid / RUNS_FOLDER / self.name

    @property
    def log_file(self) -> Path:
        """What the run printed."""
        return self.folder / self.grid / LOGS_FOLDER / f"{self.name}.log"

    @property
    def lock_file(self) -> Path:
        """Held by the process that carries it out."""
        return self.log_file.with_suffix(".lock")

    @property
    def record_file(self) -> Path:
        """What came of it."""
        return record_path(self.folder, self.grid, self.name)

    @property
    def state(self) -> State:
        """done or failed by its record; left where it has none."""
        if not self.record_file.is_file():
            return "left"
        return "done" if read_record(self.record_file).status == "success" else "failed"


def write_declaration(run: ComparisonRun) -> None:
    """Store what a run is to do, whole or not at all."""
    write_json(run.declaration_file, asdict(run.declared))


def read_declaration(path: Path) -> ComparisonRun:
    """A run by the file that says what it is to do.

    Raises:
        DataError: if the file is no run, or one that was changed since it was named.
    """
    try:
        stored = read_json(path)
        declared = GridRun(**{**stored, "measure": tuple(stored["measure"])})
        check_grid_name(declared.grid)
        name = declared.name
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError) as problem:
        raise DataError(f"{path} is not a run of a grid: {problem}.") from problem
    if path.stem != name:
        raise DataError(f"{path} holds the run {name}; it was changed by hand, so change the grid instead.")
    return ComparisonRun(declared=declared, folder=path.absolute().parents[2])


def declared_runs(folder: Path) -> list[GridRun]:
    """Every run that was declared in a comparison, carried out or not."""
    return [read_declaration(path).declared for path in sorted(folder.glob(f"**/{DECLARED_FOLDER}/*.json"))]
