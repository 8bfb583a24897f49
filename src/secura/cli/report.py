"""`secura report`: a run, or a folder of results, as one page."""

import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secura.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

Option = typer.Option


def report(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="Folder of a run of secura train, or of results of secura compare run."),
    ],
    out: Annotated[Path | None, Option(help="The page; default: DIR/run.html or DIR/report.html.")] = None,
    figures: Annotated[
        Path | None, Option(help="Folder for PNG and SVG files of a comparison; default: DIR/figures.")
    ] = None,
    show: Annotated[bool, Option("--open", help="Open the page in the browser, if there is one.")] = False,
    debug: Annotated[bool, Option("--debug", help="Show the traceback of an error.")] = False,
) -> int:
    """Show a run, or a comparison of many runs, as one HTML page.

    A run's page has what was learned and kept, answers before and after, loss and budget over the steps, and the cost.
    A comparison's page has every figure; the figures are also written as PNG and SVG.

    Exit codes: 0 done, 1 failed, 3 wrong usage.
    """
    del debug  # read by `secura.cli.app.run`
    if out is not None and out.is_dir():
        raise ConfigError(f"--out {out} is a folder; name a file, such as {out / 'report.html'}.")
    if figures is not None and figures.exists() and not figures.is_dir():
        raise ConfigError(f"--figures {figures} is a file; name a folder.")
    from secura.report.run_page import is_train_run

    page = _run(folder, out, figures) if is_train_run(folder) else _comparison(folder, out, figures)
    if show:
        open_page(page)
    return 0


def _run(folder: Path, out: Path | None, figures: Path | None) -> Path:
    from secura.plain_console import PlainConsole

    if figures is not None:
        raise ConfigError("--figures is for a comparison; the page of a run contains its figures. Leave it out.")
    return make_run_page(PlainConsole(), folder, out)


def make_run_page(console: "Console", folder: Path, out: Path | None = None) -> Path:
    """Write the page of a run and say where it is; `out` left out is a file in the run's folder."""
    from secura.one_writer import one_writer
    from secura.report.run_page import PAGE_FILE, write_run_page

    page = out or folder / PAGE_FILE
    with one_writer(page.parent):
        write_run_page(folder, page)
    console.print(f"page: {page}", highlight=False, markup=False, soft_wrap=True)
    return page


def open_page(page: Path) -> None:
    """Open a page in the browser, where there is one."""
    webbrowser.open(page.resolve().as_uri())


def _comparison(folder: Path, out: Path | None, figures: Path | None) -> Path:
    from secura.one_writer import one_writer
    from secura.plain_console import PlainConsole
    from secura.report.comparison.grids import read_comparison
    from secura.report.report_page import FIGURES_FOLDER, PAGE_FILE, write_report

    comparison = read_comparison(folder)
    page = out or folder / PAGE_FILE
    with one_writer(page.parent):
        written = write_report(comparison, page, figures or folder / FIGURES_FOLDER)
    console = PlainConsole()
    for grid in comparison.grids:
        parts = [f"{len(grid.done)} done", f"{len(grid.failed)} failed", f"{len(grid.missing)} missing"]
        console.print(f"{grid.name}: {', '.join(parts)}", highlight=False, markup=False)
    for note in comparison.notes:
        console.print(f"note: {note}", highlight=False, markup=False)
    console.print(f"page: {written[0]}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"figures: {len(written) - 1} files", highlight=False, markup=False)
    return written[0]
