"""`secura compare plan`: what grids would cost, and whether they would work, before a GPU is rented."""

from pathlib import Path
from typing import Annotated

import typer

Option = typer.Option


def plan(
    files: Annotated[list[Path], typer.Argument(metavar="GRID.yaml...", help="Grids; see docs/plan.md.")],
    assign: Annotated[
        list[str] | None,
        Option("--set", metavar="A.B=C", help="Change a setting of the grids, such as base.training.batch_size=4."),
    ] = None,
    tokens: Annotated[int, Option(metavar="N", help="Tokens a row where a grid sets no data.max_length.")] = 512,
    try_out: Annotated[
        bool, Option("--try", help="Also take two steps of each method on a small model of each architecture.")
    ] = False,
    debug: Annotated[bool, Option("--debug", help="Show the traceback of an error.")] = False,
) -> int:
    """Show runs, steps, trained weights, GPU memory and hours of grids; no weights are loaded or downloaded.

    Exit codes: 0 done, 1 a method failed when it was tried, 3 wrong usage.
    """
    del debug
    from secura.cli.plan_view import show_plan, show_trials
    from secura.experiments.comparison.plan.grid_plan import plan_runs, runs_of_files
    from secura.plain_console import PlainConsole
    from secura.training.library_output import silence_libraries

    silence_libraries()
    console = PlainConsole()
    runs = runs_of_files(files, assign or ())
    show_plan(console, plan_runs(runs, tokens=tokens))
    if not try_out:
        return 0
    from secura.experiments.comparison.plan.trial import try_runs

    return 0 if show_trials(console, try_runs(runs)) else 1
