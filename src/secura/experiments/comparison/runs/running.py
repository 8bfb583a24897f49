"""Carrying out grids: what is done stays done, what failed is tried again, what was killed goes on.

A run has succeeded, and is skipped, when its record says so. Records and nothing else say what is
done, so a comparison can be killed at any moment and started again by the same command.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from secura.errors import ConfigError
from secura.experiments.comparison.runs.grid_run import PLANNED_FOLDER, GridRun, GridRunFiles, files_of, write_grid_run
from secura.experiments.comparison.engines.engine import Ended, Engine, Job
from secura.experiments.comparison.grid.expand import runs_of_grid
from secura.experiments.comparison.grid.config import GridConfig
from secura.experiments.comparison.runs.record_files import PEFT_GRID, RESULTS_FOLDER, read_record, write_record

SUPERSEDED_FOLDER = "superseded"
"""In the results folder: records of runs that the grid no longer has."""

State = Literal["done", "failed", "left"]


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One run of a comparison, and how far it is."""

    grid_run: GridRun
    """What is to be done."""
    files: GridRunFiles
    """Where everything of it lies."""

    @property
    def state(self) -> State:
        """done or failed by its record; left where it has none."""
        if not self.files.record.is_file():
            return "left"
        return "done" if read_record(self.files.record).status == "success" else "failed"


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A run that has come to its end."""

    run: PlannedRun
    """Which one."""
    state: State
    """How it ended; left where it died or was stopped without a record."""
    reason: str
    """Why it failed, or what became of it."""


def planned_runs(grids: Sequence[GridConfig], folder: Path) -> list[PlannedRun]:
    """Every run of the grids; nothing is written yet.

    Raises:
        InputError: for whatever `runs_of_grid` refuses, or two grids of one name.
    """
    names = [grid.name for grid in grids]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two grids are called {name}; each needs a name of its own, which is also its folder.")
        if name == PEFT_GRID:
            raise ConfigError(f"a grid cannot be called {PEFT_GRID}: that is where PEFT's published results are kept.")
    return [PlannedRun(grid_run=grid_run, files=files_of(grid_run, folder)) for grid in grids for grid_run in runs_of_grid(grid)]


def due_runs(runs: Sequence[PlannedRun], *, retry_failed: bool) -> list[PlannedRun]:
    """What is still to be carried out, the longest first, so that no worker ends up alone with it.

    A run that several grids have is carried out once; see `share_results`.
    """
    wanted = ("left", "failed") if retry_failed else ("left",)
    due: dict[str, PlannedRun] = {}
    for run in runs:
        if run.state in wanted:
            due.setdefault(run.grid_run.name, run)
    return sorted(due.values(), key=lambda run: -(run.grid_run.steps or 0))


def write_plan(runs: Sequence[PlannedRun], folder: Path) -> int:
    """Store every run; returns how many results of an earlier form of the grids were set aside.

    What a grid no longer has must not mix with what it has now, so it moves to
    `results/superseded/`, and comes back from there should the grid have it again.
    """
    by_grid: dict[str, set[str]] = {}
    for run in runs:
        write_grid_run(run.grid_run, folder)
        by_grid.setdefault(run.grid_run.grid, set()).add(run.grid_run.name)
    moved = 0
    for grid, names in by_grid.items():
        for path in (folder / grid / PLANNED_FOLDER).glob("*.json"):
            if path.stem not in names:
                path.unlink()
        results = folder / grid / RESULTS_FOLDER
        aside = results / SUPERSEDED_FOLDER
        for path in results.glob("*.json"):
            if path.stem not in names:
                aside.mkdir(exist_ok=True)
                os.replace(path, aside / path.name)
                moved += 1
        for path in aside.glob("*.json"):
            if path.stem in names and not (results / path.name).exists():
                os.replace(path, results / path.name)
    return moved


def share_results(runs: Sequence[PlannedRun]) -> int:
    """Give a run that succeeded in one grid to the others that have the same one; returns how many."""
    succeeded = {run.grid_run.name: run for run in runs if run.state == "done"}
    shared = 0
    for run in runs:
        source = succeeded.get(run.grid_run.name)
        if source is not None and run.state != "done":
            record = read_record(source.files.record)
            write_record(run.files.folder, replace(record, grid=run.grid_run.grid))
            shared += 1
    return shared


def run_all(due: Sequence[PlannedRun], engine: Engine) -> Iterator[Finished]:
    """Carry out runs; yields each as it ends. Closing the iterator stops what is under way."""
    by_name = {run.grid_run.name: run for run in due}
    for run in due:
        run.files.log.unlink(missing_ok=True)  # its log is there once it has started; see `under_way`
    with _closed_after(engine.run([_job(run) for run in due])) as running:
        for ended in running:
            yield _finished(by_name[ended.job.name], ended.exit_code)


def under_way(due: Sequence[PlannedRun], ended: set[str]) -> list[PlannedRun]:
    """Which runs have started and not ended, whatever the engine."""
    return [run for run in due if run.grid_run.name not in ended and run.files.log.is_file()]


def _closed_after(running: Any) -> AbstractContextManager[Iterator[Ended]]:
    """An engine's iterator is a generator, which stops its runs when it is closed."""
    return closing(running)


def _job(run: PlannedRun) -> Job:
    module = "secura.experiments.comparison.runs.run_one"
    return Job(
        name=run.grid_run.name, command=(sys.executable, "-m", module, str(run.files.grid_run.absolute())), log=run.files.log
    )


def _finished(run: PlannedRun, exit_code: int) -> Finished:
    state = run.state
    if state == "failed":
        return Finished(run=run, state=state, reason=read_record(run.files.record).error)
    died = f"ended with code {exit_code} and without a record; {run.files.log} says more"
    return Finished(run=run, state=state, reason="" if state == "done" else died)
