"""Panels as plotly figures, plain lists and numbers, for the page."""

from collections.abc import Sequence
from html import escape
from typing import Any

from secura.report.comparison.exhibit import Axis, HeatMap, Panel, Plot, Point, Series
from secura.report.comparison.style import FAINT
from secura.report.matrix_figure import SHARES

_HEIGHT = 360
_ROW_PIXELS = 30
_MARKER = 9
_MOST_NAMED = 22
"""Letters of a name on an axis."""


def plotly_figure(panel: Panel) -> dict[str, Any]:
    """A panel as plotly draws it."""
    return _heat_map(panel) if isinstance(panel, HeatMap) else _plot(panel)


def _plot(plot: Plot) -> dict[str, Any]:
    traces: list[dict[str, Any]] = []
    if plot.front:
        traces.append(
            {
                "type": "scatter",
                "x": [x for x, _ in plot.front],
                "y": [y for _, y in plot.front],
                "mode": "lines",
                "line": {"color": "#6b6862", "width": 2, "dash": "dot"},
                "hoverinfo": "skip",
                "showlegend": False,
            }
        )
    # What stays in the background is drawn first.
    ordered = sorted(plot.series, key=lambda each: not each.faint)
    traces += [trace for each in ordered if each.band for trace in _band(each, plot)]
    traces += [_trace(each) for each in ordered]
    height = _HEIGHT if not plot.y.ticks else 90 + _ROW_PIXELS * len(plot.y.ticks)
    layout: dict[str, Any] = {
        **_shared(height),
        "margin": {"l": 8, "r": 12, "t": 10, "b": 8},
        "xaxis": _axis(plot.x, zero=plot.zero_line == "x"),
        "yaxis": _axis(plot.y, zero=plot.zero_line == "y"),
    }
    return {"data": traces, "layout": layout}


def _shared(height: int) -> dict[str, Any]:
    return {
        "template": None,
        "height": height,
        "showlegend": False,
        "hovermode": "closest",
        "dragmode": False,
        "font": {"family": "system-ui, sans-serif", "size": 12.5},
        "hoverlabel": {"font": {"family": "system-ui, sans-serif"}, "namelength": -1},
    }


def _axis(axis: Axis, *, zero: bool) -> dict[str, Any]:
    made: dict[str, Any] = {
        "title": {"text": escape(axis.title, quote=False), "standoff": 8},
        "automargin": True,
        "fixedrange": True,
        "gridcolor": "rgba(128,128,128,.2)",
        "zeroline": zero,
        "zerolinecolor": "rgba(90,90,90,.9)",
        "zerolinewidth": 1.5,
        "linecolor": "rgba(128,128,128,.5)",
        "showline": True,
    }
    if axis.log:
        made |= {"type": "log", "exponentformat": "power", "minorloglabels": "complete", "dtick": "D2"}
    if zero:
        made["rangemode"] = "tozero"
    if axis.marks:
        made |= {
            "tickmode": "array",
            "tickvals": [value for value, _ in axis.marks],
            "ticktext": [text for _, text in axis.marks],
        }
    if axis.turned:
        made["autorange"] = "reversed"
    if axis.ticks:
        made |= {
            "tickvals": list(range(len(axis.ticks))),
            "ticktext": [_short(name) for name in axis.ticks],
            "range": [len(axis.ticks) - 0.5, -0.5],
            "showgrid": False,
        }
    return made


def _trace(series: Series) -> dict[str, Any]:
    points, style = series.points, series.style
    parts = [part for part, wanted in (("lines", _has_line(series)), ("markers", series.marked)) if wanted]
    trace: dict[str, Any] = {
        "type": "scatter",
        "name": escape(series.label, quote=False),
        "legendgroup": series.group,
        "x": [_rounded(point.x) for point in points],
        "y": [_rounded(point.y) for point in points],
        "mode": "+".join([*parts, *(["text"] if series.named else [])]),
        "hovertext": [escape(point.text, quote=False) for point in points],
        "hoverinfo": "text",
        "line": {"color": style.colour, "width": 2, "dash": style.dash},
        "marker": {
            "color": style.colour,
            "symbol": style.marker + ("-open" if series.faint else ""),
            "size": _MARKER - 2 if series.faint else _MARKER,
        },
        "opacity": 0.75 if series.faint else 1.0,
        "showlegend": False,
    }
    if series.named:
        trace |= {
            "text": [_short(series.named) for _ in points],
            "textposition": "top right",
            "textfont": {"size": 11},
            "cliponaxis": False,
        }
    for key, ends_of, middle_of in (
        ("error_x", lambda point: point.x_ends, lambda point: point.x),
        ("error_y", lambda point: None if series.band else point.y_ends, lambda point: point.y),
    ):
        if any(ends_of(point) for point in points):
            trace[key] = _bars(points, ends_of, middle_of, style.colour)
    return trace


def _has_line(series: Series) -> bool:
    return series.joined and len(series.points) > 1


def _bars(points: Sequence[Point], ends_of: Any, middle_of: Any, colour: str) -> dict[str, Any]:
    above = [_rounded(ends[1] - middle_of(point)) if (ends := ends_of(point)) else 0 for point in points]
    below = [_rounded(middle_of(point) - ends[0]) if (ends := ends_of(point)) else 0 for point in points]
    return {
        "type": "data",
        "symmetric": False,
        "array": above,
        "arrayminus": below,
        "color": colour,
        "thickness": 1.4,
        "width": 3,
    }


def _band(series: Series, plot: Plot) -> list[dict[str, Any]]:
    """The vertical intervals as one polygon; on a logarithmic axis as far as they are above 0."""
    ends = [(point.x, *point.y_ends) for point in series.points if point.y_ends]
    if plot.y.log:
        ends = [(x, low, high) for x, low, high in ends if low > 0]
    if len(ends) < 2:
        return []
    there = [(x, high) for x, _, high in ends]
    back = [(x, low) for x, low, _ in reversed(ends)]
    return [
        {
            "type": "scatter",
            "x": [_rounded(x) for x, _ in (*there, *back)],
            "y": [_rounded(y) for _, y in (*there, *back)],
            "fill": "toself",
            "fillcolor": series.style.band,
            "line": {"width": 0},
            "mode": "lines",
            "hoverinfo": "skip",
            "legendgroup": series.group,
            "showlegend": False,
        }
    ]


def _heat_map(map_: HeatMap) -> dict[str, Any]:
    hover = [
        [
            escape(f"{row}, {name}: {'missing' if cell is None else f'{100 * cell:.1f}%'}", quote=False)
            for name, cell in zip(map_.names, cells, strict=True)
        ]
        for row, cells in zip(map_.rows, map_.cells, strict=True)
    ]
    heat = {
        "type": "heatmap",
        "z": [[None if cell is None else _rounded(cell) for cell in cells] for cells in map_.cells],
        "hovertext": hover,
        "hoverinfo": "text",
        "colorscale": SHARES,
        "zmin": 0,
        "zmax": 1,
        "xgap": 1,
        "ygap": 1,
        "showscale": False,
    }
    missing = [
        (column, row) for row, cells in enumerate(map_.cells) for column, cell in enumerate(cells) if cell is None
    ]
    crosses = {
        "type": "scatter",
        "x": [column for column, _ in missing],
        "y": [row for _, row in missing],
        "mode": "markers",
        "marker": {"symbol": "x-thin-open", "color": FAINT, "size": 5},
        "hoverinfo": "skip",
        "showlegend": False,
    }
    stairs = {
        "type": "scatter",
        "x": [x for x, _ in map_.stairs],
        "y": [y for _, y in map_.stairs],
        "mode": "lines",
        "line": {"color": "#1d1c1a", "width": 1.5},
        "hoverinfo": "skip",
        "showlegend": False,
    }

    def ticks(title: str, names: Sequence[str], *, down: bool) -> dict[str, Any]:
        # Every second or third name where there are many, so that none covers its neighbour.
        each = -(-len(names) // 10)
        places = list(range(0, len(names), each))
        ends = [-0.5, len(names) - 0.5]
        return {
            "title": {"text": escape(title, quote=False), "standoff": 6},
            "tickvals": places,
            "ticktext": [_short(names[place]) for place in places],
            "range": ends[::-1] if down else ends,
            "automargin": True,
            "fixedrange": True,
            "showgrid": False,
            "zeroline": False,
        }

    return {
        "data": [heat, *([crosses] if missing else []), *([stairs] if map_.stairs else [])],
        "layout": {
            **_shared(90 + 15 * max(8, len(map_.rows))),
            "margin": {"l": 8, "r": 8, "t": 6, "b": 8},
            "xaxis": ticks(map_.x, map_.columns, down=False),
            "yaxis": ticks(map_.y, map_.rows, down=True),
        },
    }


def _short(name: str) -> str:
    """A name as a label: short, and with nothing in it that plotly would read as markup."""
    return escape(name if len(name) <= _MOST_NAMED else name[: _MOST_NAMED - 1] + "…", quote=False)


def _rounded(value: float) -> float:
    """Six digits, which is more than a screen shows and half of what a float takes."""
    return float(f"{value:.6g}")
