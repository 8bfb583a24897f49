"""The points of a dial on the screen: the table, the certificate, and where everything is."""

from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from secura.experiments.dial.result import DialResult
from secura.report.dial_page import gain_text, kept_text, lower_text, point_name, score_text


def show_dial(console: Console, result: DialResult, saved: Sequence[Path]) -> None:
    """Print the table, what is certified, and where everything is."""
    console.print(_table(result), highlight=False)
    certificate = result.certificate
    if certificate is not None:
        console.print(Text(certificate.sentence, style="bold" if certificate.certified else "bold red"), soft_wrap=True)
        console.print(certificate.explanation, highlight=False, markup=False, soft_wrap=True)
    for note in result.notes:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    if result.written is not None:
        console.print(
            f"{result.written_scale:g} of what was learned is in {result.written}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    console.print(f"everything is in {' and '.join(map(str, saved))}", highlight=False, markup=False, soft_wrap=True)


def _table(result: DialResult) -> Table:
    table = Table(title="what is gained and what is kept", title_justify="left", box=SIMPLE_HEAD)
    table.show_edge, table.padding = False, (0, 1)
    table.add_column("dial", justify="right")
    table.add_column(f"gain, {result.unit}", justify="right")
    tasks = list(result.points[0].scores)
    for name in tasks[:2]:
        table.add_column(Text(name), justify="right", overflow="fold")
    table.add_column("kept", justify="right")
    table.add_column("at least", justify="right")
    chosen = result.certificate.scale if result.certificate is not None else None
    for point in result.points:
        table.add_row(
            point_name(point),
            gain_text(result, point),
            *(score_text(result, point, name) for name in tasks[:2]),
            kept_text(point),
            lower_text(result, point),
            style="bold" if point.scale == chosen else "",
        )
    asked = result.points[0].kept.before
    table.caption = f"kept: of {asked:,} questions that the base answers right"
    table.caption_justify = "left"
    return table
