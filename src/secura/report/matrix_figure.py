"""The figures of a comparison: scores as a matrix of tasks by models, and differences with their intervals.

Text is left in the page's own colour, and grounds are transparent, so that a page can be
light or dark; see `forget.js`.
"""

from collections.abc import Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from secura.experiments.forget.result import TaskChange
from secura.report.plain_figure import FONT, HOVER, plain
from secura.report.wording import difference_text, interval_text, value_text

LOST, GAINED, UNCHANGED = "#d65a1e", "#2878dc", "#8d8a83"
"""Orange and blue are told apart by readers who do not see red and green as two colours."""

SHARES = [[0.0, "#eef2f8"], [0.5, "#9db9de"], [1.0, "#1f5fae"]]
"""One hue: a low score is no loss, and what changed shows as a step from base to tuned."""

_ROW_PIXELS = 28
_NAME_LETTERS = 26


def drawn(changes: Sequence[TaskChange]) -> list[TaskChange]:
    """The tasks that the figures show: those whose scores are shares of 1."""
    return [change for change in changes if not change.lower_is_better]


def score_matrix(changes: Sequence[TaskChange]) -> dict[str, Any]:
    """Tasks by base and tuned, coloured by score; the clearest loss on top."""
    shown = drawn(changes)
    figure = go.Figure(
        go.Heatmap(
            z=[[change.before.value, change.after.value] for change in shown],
            x=["base", "tuned"],
            y=list(range(len(shown))),
            text=[[value_text(change, tuned=tuned) for tuned in (False, True)] for change in shown],
            customdata=[[escape(change.name)] * 2 for change in shown],
            texttemplate="%{text}",
            hovertemplate="%{customdata}, %{x}: %{text}<extra></extra>",
            colorscale=SHARES,
            zmin=0,
            zmax=1,
            xgap=2,
            ygap=2,
            showscale=False,
        )
    )
    figure.update_layout(**_layout(shown))
    figure.update_xaxes(side="top", fixedrange=True, showgrid=False)
    return plain(figure)


def difference_figure(changes: Sequence[TaskChange]) -> dict[str, Any]:
    """Each task's difference in points, with its interval; significant ones in colour."""
    shown = drawn(changes)
    colours = [LOST if change.lost else GAINED if change.gained else UNCHANGED for change in shown]
    points = [100 * change.paired.difference for change in shown]
    figure = go.Figure()
    for place, (change, colour, point) in enumerate(zip(shown, colours, points, strict=True)):
        figure.add_trace(
            go.Scatter(
                x=[point],
                y=[place],
                mode="markers",
                marker={"color": colour, "size": 10, "symbol": "circle" if change.significant else "circle-open"},
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": [max(0.0, 100 * change.paired.high - point)],
                    "arrayminus": [max(0.0, point - 100 * change.paired.low)],
                    "color": colour,
                    "thickness": 2,
                    "width": 5,
                },
                customdata=[[escape(change.name), difference_text(change), interval_text(change)]],
                hovertemplate="%{customdata[0]}: %{customdata[1]} (%{customdata[2]})<extra></extra>",
                showlegend=False,
            )
        )
    figure.update_layout(**_layout(shown))
    figure.update_xaxes(
        side="top",
        title={"text": "points, tuned minus base"},
        fixedrange=True,
        gridcolor="rgba(128,128,128,.25)",
        zeroline=True,
        zerolinecolor="rgba(128,128,128,.9)",
        zerolinewidth=1.5,
    )
    return plain(figure)


def _layout(shown: Sequence[TaskChange]) -> dict[str, Any]:
    return {
        "template": None,
        "height": 90 + _ROW_PIXELS * len(shown),
        "margin": {"l": 10, "r": 16, "t": 66, "b": 14},
        "font": FONT,
        "hoverlabel": HOVER,
        "yaxis": {
            "tickvals": list(range(len(shown))),
            "ticktext": [_name(change.name) for change in shown],
            "range": [len(shown) - 0.5, -0.5],
            "automargin": True,
            "fixedrange": True,
            "showgrid": False,
            "zeroline": False,
        },
    }


def _name(name: str) -> str:
    """A task's name as a label: short, and with nothing in it that plotly would read as markup."""
    short = name if len(name) <= _NAME_LETTERS else name[: _NAME_LETTERS - 1] + "…"
    return escape(short, quote=False)
