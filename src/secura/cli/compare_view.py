"""How a comparison is shown: while it runs, and as tables of means over seeds."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from secura.errors import StoppedError
from secura.experiments.comparison.engines.engine import Engine
from secura.experiments.comparison.query.seed_means import mean_over_seeds
from secura.experiments.comparison.query.tables import Answer, Tables
from secura.experiments.comparison.runs.comparison_run import ComparisonRun
from secura.experiments.comparison.runs.schedule import (
    Finished,
    carry_out_all,
    declare,
    due_runs,
    share_results,
    under_way,
)
from secura.stop_signals import what_stopped

_SHOWN_RUNS = 8
"""At most this many runs are named while they run."""


def show_runs(console: Console, runs: Sequence[ComparisonRun]) -> None:
    """Every run with how far it is."""
    for run in runs:
        console.print(
            f"{run.state:7} {run.grid}/{run.name}  learning rate {run.declared.learning_rate:.1e}",
            highlight=False,
            soft_wrap=True,
        )
    states = [run.state for run in runs]
    counts = ", ".join(f"{states.count(state)} {state}" for state in ("done", "failed", "left"))
    console.print(f"{len(runs)} runs: {counts}; dry run: all checks passed, nothing was trained", highlight=False)


# ---------------------------------------------------------------------- while it runs


def run_and_show(
    console: Console, runs: Sequence[ComparisonRun], folder: Path, engine: Engine, *, retry_failed: bool
) -> int:
    """Carry out what is due, with a line for each run that ends; returns the exit code.

    Raises:
        StoppedError: if Ctrl-C stopped it.
    """
    aside = declare(runs)
    if aside:
        _say(console, f"note: {aside} results of an earlier form of these grids are set aside in results/superseded/")
    share_results(runs)
    due = due_runs(runs, retry_failed=retry_failed)
    standing = _Standing(runs=runs, due=due)
    try:
        with Live(standing, console=console, refresh_per_second=2, transient=True):
            for finished in carry_out_all(due, engine):
                standing.note(finished)
                _say(console, _line(finished, standing))
    except KeyboardInterrupt:
        raise StoppedError(f"stopped by {what_stopped()}; the same command continues with the rest.") from None
    share_results(runs)
    return _say_how_it_ended(console, runs, folder)


class _Standing:
    """How far a comparison is; drawn anew twice a second."""

    def __init__(self, *, runs: Sequence[ComparisonRun], due: Sequence[ComparisonRun]) -> None:
        states = [run.state for run in runs]
        self.total, self.done, self.failed = len(runs), states.count("done"), 0
        self.due, self.ended = due, set[str]()
        self.began = time.monotonic()

    def note(self, finished: Finished) -> None:
        """Count a run that has ended."""
        self.ended.add(finished.run.name)
        if finished.state == "done":
            self.done += 1
        else:
            self.failed += 1

    def __rich__(self) -> RenderableType:
        running = under_way(self.due, self.ended)
        left = len(self.due) - len(self.ended) - len(running)
        minutes, seconds = divmod(int(time.monotonic() - self.began), 60)
        said = f"{self.done} done, {self.failed} failed, {len(running)} running, {left} left, {minutes}:{seconds:02d}"
        head = Table.grid(padding=(0, 1))
        head.add_row(ProgressBar(total=max(1, self.total), completed=self.done + self.failed, width=30), said)
        names = [Text(f"  {run.grid}/{run.name}", style="dim") for run in running[:_SHOWN_RUNS]]
        return Group(head, *names)


def _line(finished: Finished, standing: _Standing) -> str:
    run = finished.run
    how = "done  " if finished.state == "done" else "failed"
    reason = f": {finished.reason}" if finished.reason else ""
    return f"{standing.done + standing.failed}/{standing.total} {how} {run.grid}/{run.name}{reason}"


def _say_how_it_ended(console: Console, runs: Sequence[ComparisonRun], folder: Path) -> int:
    states = [run.state for run in runs]
    done, failed, left = (states.count(state) for state in ("done", "failed", "left"))
    _say(console, f"{done} of {len(runs)} runs are done; secura compare table {folder} shows them")
    if failed:
        where = ", ".join(sorted({str(run.record_file.parent) for run in runs if run.state == "failed"}))
        _say(console, f"{failed} failed, and say why in {where}; the same command tries them again")
    if left:
        where = ", ".join(sorted({str(run.log_file.parent) for run in runs if run.state == "left"}))
        _say(console, f"{left} ended without a record, see {where}; the same command continues them")
    return 1 if failed or left else 0


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


# ---------------------------------------------------------------------- tables

_MEANS = {
    "gain_after": "new task: questions answered right, %",
    "knowledge_kept": "knowledge kept, % of what the base model answers right",
    "just_learned": "tasks right after they were learned, %",
    "at_the_end": "tasks at the end of the sequence, %",
}
"""What is shown by default, where a grid has it; all are shares of 1."""


def show_means(console: Console, tables: Tables) -> None:
    """For each grid, label × task: the mean over seeds with its 95 % interval, missing cells as missing."""
    (grids,) = zip(*tables.query("select distinct grid from runs order by grid").rows, strict=True)
    for grid in grids:
        rows = _runs_of(tables, grid)
        shown = [column for column in _MEANS if any(row[column] is not None for row in rows)]
        for column in shown or ["gain_after"]:
            _say(console, f"\n{grid}: {_MEANS[column]}")
            console.print(_means_table(rows, column))
    _say(
        console,
        "mean ± half the 95 % interval over seeds (Student's t); in brackets how many of the seeds are there, "
        "where some are not",
    )


def _runs_of(tables: Tables, grid: str) -> list[dict[str, Any]]:
    quoted = grid.replace("'", "''")
    answer = tables.query(f"select * from runs where grid = '{quoted}' order by label, learning_rate, task, seed")
    return [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]


def _means_table(rows: Sequence[dict[str, Any]], column: str) -> Table:
    """Labels down, tasks across; models and learning rates stand in the label where they differ."""
    differ = [key for key in ("model", "learning_rate", "order_seed") if len({row[key] for row in rows}) > 1]
    if "learning_rate" in differ and not _several_rates_a_label(rows):
        differ.remove("learning_rate")
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    table = Table()
    table.add_column("")
    for task in tasks:
        table.add_column(task, justify="right")
    by_place: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        by_place.setdefault((_shown_label(row, differ), row["task"]), []).append(row)
    for label in dict.fromkeys(label for label, _ in by_place):
        table.add_row(label, *(_cell(by_place.get((label, task), []), column) for task in tasks))
    return table


def _several_rates_a_label(rows: Sequence[dict[str, Any]]) -> bool:
    rates: dict[str, set[Any]] = {}
    for row in rows:
        rates.setdefault(row["label"], set()).add(row["learning_rate"])
    return any(len(each) > 1 for each in rates.values())


def _shown_label(row: dict[str, Any], differ: Sequence[str]) -> str:
    more = {
        "model": row["model"],
        "learning_rate": f"lr {row['learning_rate']:.1e}" if row["learning_rate"] is not None else "lr unknown",
        "order_seed": "order as written" if row["order_seed"] is None else f"order seed {row['order_seed']}",
    }
    return ", ".join([row["label"], *(more[key] for key in differ)])


def _cell(rows: Sequence[dict[str, Any]], column: str) -> str:
    if not rows:
        return "–"
    values = [row[column] for row in rows if row[column] is not None]
    if not values:
        states = {row["status"] for row in rows}
        return states.pop() if len(states) == 1 and states != {"success"} else "missing"
    mean = mean_over_seeds(values)
    interval = "" if mean.half_width is None else f" ± {100 * mean.half_width:.1f}"
    some = f" ({len(values)} of {len(rows)})" if len(values) < len(rows) else ""
    return f"{100 * mean.mean:.1f}{interval}{some}"


def show_answer(console: Console, answer: Answer) -> None:
    """The answer to a query; whole, as wide as the screen allows."""
    if not answer.columns:
        return
    table = Table()
    for column in answer.columns:
        table.add_column(column, overflow="fold")
    for row in answer.rows:
        table.add_row(*(_shown(value) for value in row))
    console.print(table)


def _shown(value: Any) -> str:
    if value is None:
        return "missing"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
