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
from typing import Any

from secura.errors import ConfigError
from secura.experiments.comparison.engines.engine import Ended, Engine, Job
from secura.experiments.comparison.grid.config import GridConfig
from secura.experiments.comparison.grid.expand import runs_of_grid
from secura.experiments.comparison.runs.comparison_run import ComparisonRun, State, write_declaration
from secura.experiments.comparison.runs.record_files import PEFT_GRID, read_record, write_record

SUPERSEDED_FOLDER = "superseded"
"""In the results folder: records of runs that the grid no longer has."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A run that has come to its end."""

    run: ComparisonRun
    """Which one."""
    state: State
    """How it ended; left where it died or was stopped without a record."""
    reason: str
    """Why it failed, or what became of it."""


def runs_of_grids(grids: Sequence[GridConfig], folder: Path) -> list[ComparisonRun]:
    """Every run of the grids; nothing is written yet.

    Raises:
        InputError: for whatever `runs_of_grid` refuses, or two grids of one name.
    """
    names = [grid.name for grid in grids]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"two grids are called {name}; give each its own name, which is also the name of its folder."
            )
        if name == PEFT_GRID:
            raise ConfigError(f"a grid cannot be called {PEFT_GRID}: that is where PEFT's published results are kept.")
    return [ComparisonRun(declared=declared, folder=folder) for grid in grids for declared in runs_of_grid(grid)]


def due_runs(runs: Sequence[ComparisonRun], *, retry_failed: bool) -> list[ComparisonRun]:
    """What is still to be carried out, the longest first, so that no worker ends up alone with it.

    A run that several grids have is carried out once; see `share_results`.
    """
    wanted = ("left", "failed") if retry_failed else ("left",)
    due: dict[str, ComparisonRun] = {}
    for run in runs:
        if run.state in wanted:
            due.setdefault(run.name, run)
    return sorted(due.values(), key=lambda run: -(run.declared.steps or 0))


def declare(runs: Sequence[ComparisonRun]) -> int:
    """Store what each run is to do; returns how many results of an earlier form of the grids were set aside.

    What a grid no longer has must not mix with what it has now, so it moves to
    `results/superseded/`, and comes back from there should the grid have it again.
    """
    names: dict[tuple[Path, Path], set[str]] = {}
    for run in runs:
        write_declaration(run)
        names.setdefault((run.declaration_file.parent, run.record_file.parent), set()).add(run.name)
    moved = 0
    for (declarations, results), current in names.items():
        for path in declarations.glob("*.json"):
            if path.stem not in current:
                path.unlink()
        aside = results / SUPERSEDED_FOLDER
        for path in results.glob("*.json"):
            if path.stem not in current:
                aside.mkdir(exist_ok=True)
                os.replace(path, aside / path.name)
                moved += 1
        for path in aside.glob("*.json"):
            if path.stem in current and not (results / path.name).exists():
                os.replace(path, results / path.name)
    return moved


def share_results(runs: Sequence[ComparisonRun]) -> int:
    """Give a run that succeeded in one grid to the others that have the same one; returns how many."""
    succeeded = {run.name: run for run in runs if run.state == "done"}
    shared = 0
    for run in runs:
        source = succeeded.get(run.name)
        if source is not None and run.state != "done":
            write_record(run.folder, replace(read_record(source.record_file), grid=run.grid))
            shared += 1
    return shared


def carry_out_all(due: Sequence[ComparisonRun], engine: Engine) -> Iterator[Finished]:
    """Carry out runs; yields each as it ends. Closing the iterator stops what is under way."""
    by_name = {run.name: run for run in due}
    for run in due:
        run.log_file.unlink(missing_ok=True)  # its log is there once it has started; see `under_way`
    with _closed_after(engine.run([_job(run) for run in due])) as running:
        for ended in running:
            yield _finished(by_name[ended.job.name], ended.exit_code)


def under_way(due: Sequence[ComparisonRun], ended: set[str]) -> list[ComparisonRun]:
    """Which runs have started and not ended, whatever the engine."""
    return [run for run in due if run.name not in ended and run.log_file.is_file()]


def _closed_after(running: Any) -> AbstractContextManager[Iterator[Ended]]:
    """An engine's iterator is a generator, which stops its runs when it is closed."""
    return closing(running)


def _job(run: ComparisonRun) -> Job:
    module = "secura.experiments.comparison.runs.carry_out"
    command = (sys.executable, "-m", module, str(run.declaration_file.absolute()))
    return Job(name=run.name, command=command, log=run.log_file)


def _finished(run: ComparisonRun, exit_code: int) -> Finished:
    state = run.state
    if state == "failed":
        return Finished(run=run, state=state, reason=read_record(run.record_file).error)
    died = f"ended with code {exit_code} and without a record; {run.log_file} says more"
    return Finished(run=run, state=state, reason="" if state == "done" else died)
