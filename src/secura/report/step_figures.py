"""What happened over the steps of a run, as figures: one a question, drawn from its log.

Text is left in the page's own colour, and grounds are transparent; see `figures.js`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from secura.report.matrix_figure import GAINED, LOST, UNCHANGED
from secura.report.plain_figure import FONT, HOVER, axis, plain

_HEIGHT = 260


@dataclass(frozen=True, kw_only=True)
class StepFigure:
    """A figure over the steps of a run."""

    key: str
    """Its id in the page."""
    title: str
    """What it shows."""
    figure: dict[str, Any]
    """For plotly."""


@dataclass(frozen=True, kw_only=True)
class _Line:
    field: str
    """Name in a line of the log."""
    label: str
    colour: str
    dash: str = "solid"


_DRAWN: Sequence[tuple[str, str, str, Sequence[_Line]]] = (
    ("loss", "Training loss", "nats a token", [_Line(field="loss", label="loss", colour=GAINED)]),
    (
        "moved",
        "How far the model moves on text of its base's own, against what it may",
        "nats a token",
        [
            _Line(field="anchor_kl", label="in a step", colour=UNCHANGED, dash="dot"),
            _Line(field="anchor_kl_mean", label="moving average", colour=GAINED),
            _Line(field="anchor_kl_budget", label="budget κ", colour=LOST, dash="dash"),
        ],
    ),
    ("strength", "Strength λ that holds it there", "", [_Line(field="anchor_strength", label="λ", colour=GAINED)]),
    ("steer", "Steer questions still right", "%", [_Line(field="steer_kept", label="kept", colour=GAINED)]),
    ("rate", "Learning rate", "", [_Line(field="learning_rate", label="rate", colour=GAINED)]),
    ("gradient", "Length of the gradient", "", [_Line(field="grad_norm", label="length", colour=GAINED)]),
    ("memory", "Memory", "MB", [_Line(field="memory_mb", label="MB", colour=GAINED)]),
)


def step_figures(lines: Sequence[Mapping[str, Any]]) -> list[StepFigure]:
    """The figures for which a log has numbers; each line of the log is a step."""
    return [
        StepFigure(key=key, title=title, figure=_figure(lines, unit, present))
        for key, title, unit, drawn in _DRAWN
        if (present := [each for each in drawn if any(line.get(each.field) is not None for line in lines)])
    ]


def _figure(lines: Sequence[Mapping[str, Any]], unit: str, drawn: Sequence[_Line]) -> dict[str, Any]:
    figure = go.Figure()
    for each in drawn:
        known = [(line["step"], line[each.field]) for line in lines if line.get(each.field) is not None]
        figure.add_scatter(
            x=[step for step, _ in known],
            y=[value for _, value in known],
            name=each.label,
            mode="lines+markers" if len(known) < 25 else "lines",
            line={"color": each.colour, "width": 1.75, "dash": each.dash},
            marker={"size": 6},
            hovertemplate=f"step %{{x}}: %{{y:.4g}} {unit}<extra>{each.label}</extra>",
        )
    figure.update_layout(
        template=None,
        height=_HEIGHT,
        margin={"l": 62, "r": 20, "t": 16, "b": 44},
        font=FONT,
        hoverlabel=HOVER,
        showlegend=len(drawn) > 1,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        xaxis=axis("step"),
        yaxis=axis(unit, rangemode="tozero"),
    )
    return plain(figure)
