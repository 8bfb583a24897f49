"""A plan on the screen: one table a grid, the sum, and what the numbers leave out."""

from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from secura.experiments.comparison.plan.gpus import UTILISATION, Gpu
from secura.experiments.comparison.plan.grid_plan import Plan, PlanRow
from secura.experiments.comparison.plan.trial import Trial

_MISSING = "–"


def show_plan(console: Console, plan: Plan) -> None:
    """Print a table of each grid, the sum of all, and the notes."""
    for grid, model in dict.fromkeys((row.grid, row.model) for row in plan.rows):
        rows = [row for row in plan.rows if (row.grid, row.model) == (grid, model)]
        console.print(_table(f"{grid}: {model}", rows, plan.gpus), highlight=False)
    steps = _MISSING if plan.steps is None else f"{plan.steps:,}"
    _say(console, f"in all: {plan.runs:,} runs, {steps} steps")
    if plan.flops is not None:
        hours = ", ".join(f"{_number(gpu.hours(plan.flops))} on one {gpu.name}" for gpu in plan.gpus)
        _say(console, f"hours of training at {UTILISATION:.0%} of the peak in bfloat16: {hours}")
    for gpu in plan.gpus:
        _say_what_does_not_fit(console, plan.rows, gpu)
    _say(console, "GB: memory of the largest run, in 10⁹ bytes; less GB: with gradient checkpointing; h: hours")
    for note in plan.notes:
        _say(console, f"note: {note}")


def _table(title: str, rows: Sequence[PlanRow], gpus: Sequence[Gpu]) -> Table:
    table = Table(title=Text(title), title_justify="left", box=SIMPLE_HEAD)
    table.show_edge = False
    table.add_column("method", overflow="fold")
    headings = ("runs", "steps", "trained", "GB", "less GB", *(f"h {gpu.name.split()[0]}" for gpu in gpus))
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            Text(row.label),
            f"{row.runs:,}",
            _MISSING if row.steps is None else f"{row.steps:,}",
            _in_millions(row.largest.trained_weights),
            _number(row.largest.memory.total / 1e9),
            _number(row.largest.memory_with_checkpointing.total / 1e9),
            *(_MISSING if row.flops is None else _number(gpu.hours(row.flops)) for gpu in gpus),
        )
    return table


def _say_what_does_not_fit(console: Console, rows: Sequence[PlanRow], gpu: Gpu) -> None:
    too_large = [row for row in rows if row.largest.memory.total > gpu.memory_bytes]
    mended = [row for row in too_large if row.largest.memory_with_checkpointing.total <= gpu.memory_bytes]
    if not too_large:
        _say(console, f"{gpu.name}: every run fits")
        return
    kinds = "1 of the lines above does" if len(too_large) == 1 else f"{len(too_large)} of the lines above do"
    way_out = f", {len(mended)} of them would with training.gradient_checkpointing" if mended else ""
    _say(console, f"{gpu.name}: {kinds} not fit into its {gpu.memory_bytes / 1e9:.0f} GB{way_out}")


def show_trials(console: Console, trials: Iterable[Trial]) -> bool:
    """Print each trial as it ends; returns whether all of them worked."""
    failed = 0
    for trial in trials:
        failed += not trial.worked
        mark = "works " if trial.worked else "FAILED"
        _say(console, f"{mark} {trial.label} on {trial.model}: {trial.said}")
    _say(console, f"{failed} trials failed" if failed else "every trial worked")
    return not failed


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def _in_millions(count: int) -> str:
    return f"{count / 1e6:,.1f} M" if count >= 100_000 else f"{count:,}"
