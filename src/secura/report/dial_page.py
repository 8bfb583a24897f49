"""The points of a dial as one page: gain against what was kept, with the line of the budget.

A single file that asks nothing of any network; whatever comes from data is escaped, see `forget_page`.
"""

from typing import Any

import plotly.graph_objects as go

from secura.evaluation.certificate import certificate_as_json, lower_bound
from secura.evaluation.tally import limit_text, percent
from secura.experiments.dial.result import JSON_FILE, DialPoint, DialResult
from secura.report.certificate_text import certificate_facts
from secura.report.matrix_figure import GAINED, LOST, UNCHANGED
from secura.report.page_parts import flat_facts, for_script, own_file, page_templates, plotly_script
from secura.report.plain_figure import FONT, HOVER, axis, plain

PAGE_FILE = "dial.html"

_HEIGHT = 420


def dial_page(result: DialResult) -> str:
    """The whole page as HTML."""
    templates = page_templates()
    certificate = None if result.certificate is None else certificate_as_json(result.certificate)
    tasks = list(result.points[0].scores)
    return templates.get_template("dial.html.jinja").render(
        base=result.base,
        tuned=result.tuned,
        headline=headline(result),
        certificate=certificate,
        certificate_facts=certificate_facts(certificate),
        confidence=f"{100 * result.confidence:g}%",
        unit=result.unit,
        tasks=tasks,
        rows=[
            {
                "name": point_name(point),
                "chosen": result.certificate is not None and point.scale == result.certificate.scale,
                "gain": gain_text(result, point),
                "scores": [score_text(result, point, task) for task in tasks],
                "kept": kept_text(point),
                "lower": lower_text(result, point),
            }
            for point in result.points
        ],
        asked=f"{result.points[0].kept.before:,}",
        written=""
        if result.written is None
        else f"{result.written_scale:g} of what was learned is in {result.written}",
        json_name=JSON_FILE,
        notes=result.notes,
        facts=flat_facts(result.record),
        style=own_file(templates, "sheet.css") + own_file(templates, "forget.css"),
        program=own_file(templates, "figures.js"),
        plotly=plotly_script(),
        data=for_script({"figures": {"dial": dial_figure(result)}}),
    )


def headline(result: DialResult) -> str:
    """The finding in a sentence."""
    if result.certificate is not None:
        return result.certificate.sentence
    most = max(result.points, key=lambda point: point.gain)
    return (
        f"The most is gained at {most.scale:g} of what was learned ({gain_text(result, most)} {result.unit}), where "
        f"{kept_text(most)} of the base's right answers are kept."
    )


def dial_figure(result: DialResult) -> dict[str, Any]:
    """Gain against kept, a point a setting of the dial; the bar is the lower bound, the dashed line the budget."""
    factor = _factor(result)
    kept = [100 * (point.kept.kept or 0.0) for point in result.points]
    low = [100 * lower_bound(point.kept.after, point.kept.before, result.confidence) for point in result.points]
    chosen = result.certificate.scale if result.certificate is not None else None
    figure = go.Figure(
        go.Scatter(
            x=kept,
            y=[factor * point.gain for point in result.points],
            mode="lines+markers+text",
            text=[point_name(point) for point in result.points],
            textposition="top center",
            line={"color": UNCHANGED, "width": 1.5},
            marker={
                "size": 11,
                "color": [GAINED if point.scale == chosen else UNCHANGED for point in result.points],
                "symbol": ["circle" if point.scale == chosen else "circle-open" for point in result.points],
            },
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [0.0] * len(kept),
                "arrayminus": [
                    max(0.0, share - bound) if point.scale else 0.0
                    for point, share, bound in zip(result.points, kept, low, strict=True)
                ],
                "color": UNCHANGED,
                "thickness": 1.5,
                "width": 4,
            },
            customdata=[
                [gain_text(result, point), kept_text(point), lower_text(result, point)] for point in result.points
            ],
            hovertemplate="dial %{text}: gain %{customdata[0]}, kept %{customdata[1]}, at least %{customdata[2]}"
            "<extra></extra>",
            showlegend=False,
        )
    )
    if result.keep is not None:
        figure.add_vline(
            x=100 * result.keep,
            line={"color": LOST, "width": 1.5, "dash": "dash"},
            annotation={"text": f"keep {limit_text(result.keep)}", "font": {"color": LOST}},
        )
    figure.update_layout(
        template=None,
        height=_HEIGHT,
        margin={"l": 66, "r": 24, "t": 40, "b": 56},
        font=FONT,
        hoverlabel=HOVER,
        xaxis=axis("kept, % of the base's right answers"),
        yaxis=axis(f"gain, {result.unit}"),
    )
    return plain(figure)


def point_name(point: DialPoint) -> str:
    """A setting of the dial as text."""
    return "0 (base)" if point.scale == 0 else f"{point.scale:.4g}"


def gain_text(result: DialResult, point: DialPoint) -> str:
    """What a point gains, in points or in nats a token."""
    text = f"{100 * point.gain:+.1f}" if result.unit == "points" else f"{point.gain:+.3f}"
    return text.replace("-", "−") if point.scale else "0"


def score_text(result: DialResult, point: DialPoint, task: str) -> str:
    """A task's score at a point: a share in percent, or nats a token where all tasks are texts."""
    value = point.scores[task]
    return f"{100 * value:.1f}%" if result.unit == "points" and value <= 1 else f"{value:.3f}"


def kept_text(point: DialPoint) -> str:
    """What a point keeps of the base's right answers."""
    return percent(point.kept.kept or 0.0)


def lower_text(result: DialResult, point: DialPoint) -> str:
    """The one-sided lower bound of it."""
    return percent(lower_bound(point.kept.after, point.kept.before, result.confidence)) if point.scale else ""


def _factor(result: DialResult) -> float:
    return 100.0 if result.unit == "points" else 1.0
