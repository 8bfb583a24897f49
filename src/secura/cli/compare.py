"""`secura compare`: a grid of runs, carried out, looked at, and set beside PEFT's published ones."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from secura.cli.compare_plan import plan
from secura.cli.run_by_default import RunByDefault
from secura.errors import ConfigError

Option = typer.Option


app = typer.Typer(
    cls=RunByDefault,
    help="Run a grid of runs and look at the results: secura compare GRID.yaml --out DIR",
    no_args_is_help=True,
    rich_markup_mode=None,
)

app.command()(plan)


@app.command()
def run(
    files: Annotated[list[Path], typer.Argument(metavar="GRID.yaml...", help="Grids; see docs/compare.md.")],
    out: Annotated[Path, Option(metavar="DIR", help="Folder of the comparison.")] = Path("runs/compare"),
    assign: Annotated[
        list[str] | None,
        Option("--set", metavar="A.B=C", help="Change a setting of the grids, such as base.training.steps=10."),
    ] = None,
    workers: Annotated[
        int | None, Option(metavar="N", help="Runs at a time; default: the number of GPUs or cores.")
    ] = None,
    engine: Annotated[
        Literal["local", "ray", "slurm"], Option(help="Where the runs work: local, ray or slurm.")
    ] = "local",
    engine_set: Annotated[
        list[str] | None,
        Option("--engine-set", metavar="A=B", help="A setting of ray or slurm, such as partition=gpu."),
    ] = None,
    retry_failed: Annotated[
        bool, Option("--retry-failed/--no-retry-failed", help="Try failed runs again; the old failure is kept.")
    ] = True,
    dry_run: Annotated[bool, Option("--dry-run", help="Check everything and list the runs, train nothing.")] = False,
    debug: Annotated[bool, Option("--debug", help="Show the traceback of an error.")] = False,
) -> int:
    """Do all runs of the grids that have not succeeded yet; after an interruption, the same command continues.

    Exit codes: 0 every run succeeded, 1 a run failed or Ctrl-C stopped it, 3 wrong usage.
    """
    del debug
    from secura.experiments.comparison.engines.choice import make_engine
    from secura.experiments.comparison.grid.config import load_grid
    from secura.experiments.comparison.runs.schedule import runs_of_grids

    grids = [load_grid(file, assign or ()) for file in files]
    runs = runs_of_grids(grids, out)
    from secura.cli.compare_view import run_and_show, show_runs
    from secura.plain_console import PlainConsole

    console = PlainConsole()
    if dry_run:
        show_runs(console, runs)
        return 0
    carried_out_by = make_engine(engine, folder=out, workers=workers, assignments=engine_set or ())
    return run_and_show(console, runs, out, carried_out_by, retry_failed=retry_failed)


@app.command()
def table(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a comparison, or of PEFT's results.")],
    sql: Annotated[
        str | None,
        Option(metavar="QUERY", help="An SQL query, such as 'select label, avg(gain_after) from runs group by label'."),
    ] = None,
    csv: Annotated[Path | None, Option(metavar="FILE", help="Write the answer, or all runs, to this CSV file.")] = None,
    parquet: Annotated[
        Path | None, Option(metavar="FILE", help="Write the answer, or all runs, to this Parquet file.")
    ] = None,
) -> int:
    """Show the means over seeds, or the answer to a query over runs, knowledge, scores, gradient_norms and spectra."""
    from secura.cli.compare_view import show_answer, show_means
    from secura.experiments.comparison.query.tables import Tables
    from secura.plain_console import PlainConsole

    for path, ending in ((csv, ".csv"), (parquet, ".parquet")):
        if path is not None and path.suffix != ending:
            raise ConfigError(f"{path}: the name ends in {path.suffix or 'nothing'}; let it end in {ending}.")
    console = PlainConsole()
    tables = Tables(folder)
    for path in filter(None, (csv, parquet)):
        tables.export(sql or "select * from runs", path)
        console.print(f"written to {path}", highlight=False, markup=False, soft_wrap=True)
    if sql is not None:
        show_answer(console, tables.query(sql))
    elif csv is None and parquet is None:
        show_means(console, tables)
    return 0


@app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(metavar="FILE|DIR", help="PEFT's results, such as MetaMathQA/results.")],
    into: Annotated[Path, Option(metavar="DIR", help="Folder of the comparison.")],
) -> int:
    """Import the published results of PEFT's method comparison, to see them beside your own."""
    from secura.experiments.comparison.query.peft_import import import_results
    from secura.plain_console import PlainConsole

    imported = import_results(source, into)
    earlier = f"; {len(imported.skipped)} earlier runs of the same are left out" if imported.skipped else ""
    PlainConsole().print(
        f"{len(imported.stored)} results of PEFT are in {into}{earlier}; see secura compare table {into}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    return 0
