"""What the line figures of our pages have in common, and a figure as a page holds it.

Text is left in the page's own colour, and grounds are transparent; see `figures.js`.
"""

from typing import Any

import plotly.graph_objects as go

FONT = {"family": "system-ui, sans-serif", "size": 13}
HOVER = {"font": {"family": "system-ui, sans-serif"}}


def axis(title: str, **more: Any) -> dict[str, Any]:
    """An axis with a title and faint lines, which no dragging moves."""
    return {
        "title": {"text": title},
        **more,
        "gridcolor": "rgba(128,128,128,.25)",
        "zerolinecolor": "rgba(128,128,128,.6)",
        "fixedrange": True,
    }


def plain(figure: go.Figure) -> dict[str, Any]:
    """The figure as plain lists and numbers."""
    made = figure.to_plotly_json()
    return {"data": made["data"], "layout": made["layout"]}
