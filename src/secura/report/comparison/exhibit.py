"""What a report shows, before anyone decides how: panels, tables, and the sentences that go with them.

A panel is drawn twice from the same numbers, by plotly for the page and by matplotlib for the
files, so that the two cannot disagree.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from secura.report.comparison.style import Style


@dataclass(frozen=True, kw_only=True)
class Point:
    """One point of a series, with its intervals where it has any."""

    x: float
    """Along the horizontal axis."""
    y: float
    """Along the vertical axis."""
    x_ends: tuple[float, float] | None = None
    """Interval of x."""
    y_ends: tuple[float, float] | None = None
    """Interval of y."""
    text: str = ""
    """What is said of it where a reader points at it."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """The points of one label."""

    label: str
    """What the legend calls it."""
    style: Style
    """How it is drawn."""
    group: str
    """The entry of the legend that it belongs to."""
    points: Sequence[Point]
    """In order."""
    joined: bool = False
    """Whether a line goes from each to the next."""
    marked: bool = True
    """Whether each point has a marker."""
    band: bool = False
    """Whether vertical intervals are drawn as one band."""
    named: str = ""
    """What stands beside its points, if anything."""
    faint: bool = False
    """Whether it stays in the background."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One axis of a plot."""

    title: str
    """What it shows, unit included."""
    log: bool = False
    """Whether it is logarithmic."""
    turned: bool = False
    """Whether it runs the other way, so that better is always further to the right, or up."""
    ticks: Sequence[str] = ()
    """Names at 0, 1, 2 ..., for an axis without numbers; the first on top where it is vertical."""
    marks: Sequence[tuple[float, str]] = ()
    """The only values to be written, and how, where these say more than round numbers."""


@dataclass(frozen=True, kw_only=True)
class Plot:
    """Series over two axes."""

    title: str
    """Above the plot; empty where the figure has one plot alone."""
    x: Axis
    """The horizontal axis."""
    y: Axis
    """The vertical axis."""
    series: Sequence[Series]
    """What is drawn."""
    front: Sequence[tuple[float, float]] = ()
    """Corners of the Pareto front, where there is one."""
    zero_line: Literal["", "x", "y"] = ""
    """The axis on which 0 means unchanged."""


@dataclass(frozen=True, kw_only=True)
class HeatMap:
    """Shares of 1 by row and column."""

    title: str
    """Above the map."""
    x: str
    """What the columns are."""
    y: str
    """What the rows are."""
    rows: Sequence[str]
    """Names of the rows, the first on top."""
    columns: Sequence[str]
    """Names of the columns."""
    cells: Sequence[Sequence[float | None]]
    """By row, then by column; None is missing."""
    names: Sequence[str]
    """What a column is in full."""
    stairs: Sequence[tuple[float, float]] = ()
    """Corners of a line over the map, in columns and rows counted from 0 at the middle of the first."""


Panel = Plot | HeatMap


@dataclass(frozen=True, kw_only=True)
class TableCell:
    """One cell of a table."""

    text: str
    """What it says."""
    state: Literal["", "missing", "failed", "best"] = ""
    """Whether a number is there, and whether it is the clear leader of its column."""
    detail: str = ""
    """What is said below the text, small, such as why a run failed."""
    runs: Sequence[str] = ()
    """Names of the runs behind it, to be linked."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Numbers by row and column; the first cell of a row names it."""

    caption: str
    """What it holds."""
    head: Sequence[str]
    """Names of the columns."""
    rows: Sequence[Sequence[TableCell]]
    """As many cells as the head has names."""
    folded: bool = False
    """Whether a reader must open it, since it is long and few will."""


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """One thing shown: what it says in a sentence, how it looks, and its numbers."""

    key: str
    """Short, fixed and unique in its grid: part of addresses and file names."""
    title: str
    """Its heading."""
    sentence: str
    """What it shows, computed from the numbers."""
    note: str
    """How to read it."""
    panels: Sequence[Panel] = ()
    """Its figure; none where the table says it all."""
    tables: Sequence[Table] = ()
    """Its numbers."""
    legend: Sequence[tuple[str, Style]] = field(default_factory=tuple)
    """Labels of the figure and how they are drawn; none where the panels name them."""


@dataclass(frozen=True, kw_only=True)
class Absent:
    """Something that a grid holds nothing of."""

    title: str
    """What would be shown."""
    reason: str
    """What is missing."""
    remedy: str
    """The setting of the grid's file that would bring it; empty where carrying the grid out would."""
