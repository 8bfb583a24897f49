"""Exhibits as PNG and SVG files, drawn by matplotlib from the numbers that the page is drawn from."""

import math
import os
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogFormatter, NullLocator

from secura.report.comparison.exhibit import Axis, Exhibit, HeatMap, Plot, Series
from secura.report.comparison.style import FAINT, Style
from secura.report.matrix_figure import SHARES

_MARKERS = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "triangle-up": "^",
    "triangle-down": "v",
    "x": "X",
    "star": "*",
    "pentagon": "p",
    "hexagon": "h",
}
_DASHES: dict[str, Any] = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}
_LOOK: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "secura",  # the same numbers give the same file
    "figure.constrained_layout.use": True,
}
_ACROSS = 3
"""Panels side by side, at most."""
_TITLE_LETTERS = 46
"""A line of a title, which is as wide as its panel."""


def write_images(exhibit: Exhibit, stem: Path) -> list[Path]:
    """Write an exhibit's figure as `stem`.png and `stem`.svg; nothing where it has none."""
    if not exhibit.panels:
        return []
    stem.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(_LOOK):
        figure = _drawn(exhibit)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # it is laid out; without this once more for each file
        written = []
        for kind in ("png", "svg"):
            path = stem.with_name(f"{stem.name}.{kind}")
            partial = path.with_name(path.name + ".partial")
            figure.savefig(partial, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else None)
            os.replace(partial, path)
            written.append(path)
    return written


def _drawn(exhibit: Exhibit) -> Figure:
    panels = exhibit.panels
    across = min(_ACROSS if isinstance(panels[0], HeatMap) else 2, len(panels))
    down = math.ceil(len(panels) / across)
    height = max(_height(panel) for panel in panels)
    figure = Figure(figsize=((3.6 if isinstance(panels[0], HeatMap) else 4.8) * across, height * down + 0.7))
    places = figure.subplots(down, across, squeeze=False)
    maps = []
    for axes, panel in zip(places.flat, panels, strict=False):
        if isinstance(panel, HeatMap):
            maps.append(_heat_map(axes, panel))
        else:
            _plot(axes, panel)
        axes.set_title(fill(_plain(panel.title), _TITLE_LETTERS))
    for axes in list(places.flat)[len(panels) :]:
        axes.set_visible(False)
    if maps:
        bar = figure.colorbar(maps[0], ax=list(places.flat), shrink=0.6)
        bar.set_label("share of right answers")
    if exhibit.legend:
        handles = [_handle(label, style) for label, style in exhibit.legend]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)), frameon=False)
    return figure


def _height(panel: Plot | HeatMap) -> float:
    if isinstance(panel, HeatMap):
        return 3.2
    return max(1.6, 0.9 + 0.28 * len(panel.y.ticks)) if panel.y.ticks else 3.4


def _handle(label: str, style: Style) -> Line2D:
    return Line2D(
        [], [], color=style.colour, marker=_MARKERS[style.marker], linestyle=_DASHES[style.dash], label=_plain(label)
    )


def _plot(axes: Axes, plot: Plot) -> None:
    if plot.front:
        axes.plot(*zip(*plot.front, strict=True), color=FAINT, linewidth=1.6, linestyle=":", zorder=1)
    for series in plot.series:
        _series(axes, series)
    for axis, draws, letter in ((plot.x, axes.xaxis, "x"), (plot.y, axes.yaxis, "y")):
        _set_axis(axes, axis, letter)
        draws.grid(visible=True, color="0.9", linewidth=0.0 if axis.ticks else 0.7)
    axes.set_axisbelow(True)
    if plot.zero_line == "x":
        axes.axvline(0, color="0.35", linewidth=1)
    if plot.zero_line == "y":
        axes.axhline(0, color="0.35", linewidth=1)


def _series(axes: Axes, series: Series) -> None:
    style, points = series.style, series.points
    x, y = [point.x for point in points], [point.y for point in points]
    axes.plot(
        x,
        y,
        color=style.colour,
        linestyle=_DASHES[style.dash] if series.joined and len(points) > 1 else "none",
        linewidth=1.5,
        marker=_MARKERS[style.marker] if series.marked else "",
        markersize=4 if series.faint else 5.5,
        markerfacecolor="none" if series.faint else style.colour,
        alpha=0.75 if series.faint else 1.0,
        zorder=2 if series.faint else 3,
    )
    if series.named:
        for point in points:
            axes.annotate(
                _plain(series.named),
                (point.x, point.y),
                xytext=(4, 4),
                textcoords="offset points",
                fontsize=7,
                ha="left",
            )
    banded = [point for point in points if point.y_ends]
    if series.band and len(banded) > 1:
        low, high = zip(*(point.y_ends for point in banded if point.y_ends), strict=True)
        axes.fill_between([point.x for point in banded], low, high, color=style.colour, alpha=0.16, linewidth=0)
    for point in points:
        if point.x_ends:
            axes.hlines(point.y, *point.x_ends, color=style.colour, linewidth=1.1)
        if point.y_ends and not series.band:
            axes.vlines(point.x, *point.y_ends, color=style.colour, linewidth=1.1)


def _set_axis(axes: Axes, axis: Axis, letter: str) -> None:
    (axes.set_xlabel if letter == "x" else axes.set_ylabel)(_plain(axis.title))
    if axis.log:
        (axes.set_xscale if letter == "x" else axes.set_yscale)("log")
        side = axes.xaxis if letter == "x" else axes.yaxis
        side.set_major_formatter(LogFormatter())
        side.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
    if axis.ticks:
        names = [_plain(name) for name in axis.ticks]
        if letter == "x":
            axes.set_xticks(range(len(names)), names)
        else:
            axes.set_yticks(range(len(names)), names)
            axes.set_ylim(len(names) - 0.5, -0.5)
    if axis.marks:
        values, names = [value for value, _ in axis.marks], [text for _, text in axis.marks]
        (axes.set_xticks if letter == "x" else axes.set_yticks)(values, names)
        (axes.xaxis if letter == "x" else axes.yaxis).set_minor_locator(NullLocator())
    if axis.turned:
        (axes.invert_xaxis if letter == "x" else axes.invert_yaxis)()


def _heat_map(axes: Axes, map_: HeatMap) -> Any:
    shades = LinearSegmentedColormap.from_list("shares", [(place, colour) for place, colour in SHARES])
    colours = shades.with_extremes(bad="0.8")
    cells = [[math.nan if cell is None else cell for cell in row] for row in map_.cells]
    image = axes.imshow(cells, cmap=colours, vmin=0, vmax=1, aspect="auto")
    if map_.stairs:
        axes.plot(*zip(*map_.stairs, strict=True), color="black", linewidth=1)
    for names, letter, title in ((map_.columns, "x", map_.x), (map_.rows, "y", map_.y)):
        places = range(0, len(names), -(-len(names) // 9))
        shown = [_plain(names[place]) for place in places]
        (axes.set_xticks if letter == "x" else axes.set_yticks)(list(places), shown)
        (axes.set_xlabel if letter == "x" else axes.set_ylabel)(_plain(title))
    return image


def _plain(text: str) -> str:
    """Text in which matplotlib sees no formula."""
    return text.replace("$", r"\$")
