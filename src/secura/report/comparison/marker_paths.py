"""The markers of the figures as paths for a legend in HTML, in a square from −1 to 1."""

import math

from secura.report.comparison.style import Style


def _polygon(corners: int, *, turn: float = 0.0, inner: float | None = None) -> str:
    """A regular polygon, or a star where every second corner lies further in; turned in parts of a full turn."""
    count = corners * (1 if inner is None else 2)
    points = []
    for place in range(count):
        radius = inner if inner is not None and place % 2 else 1.0
        angle = 2 * math.pi * (place / count + turn - 0.25)
        points.append(f"{radius * math.cos(angle):.3f},{radius * math.sin(angle):.3f}")
    return "M" + "L".join(points) + "Z"


MARKER_PATHS = {
    "circle": "M1,0A1,1 0 1 1 -1,0A1,1 0 1 1 1,0Z",
    "square": "M-.85,-.85H.85V.85H-.85Z",
    "diamond": _polygon(4),
    "triangle-up": _polygon(3),
    "triangle-down": _polygon(3, turn=0.5),
    "x": "M-.9,-.5L-.5,-.9L0,-.4L.5,-.9L.9,-.5L.4,0L.9,.5L.5,.9L0,.4L-.5,.9L-.9,.5L-.4,0Z",
    "star": _polygon(5, inner=0.4),
    "pentagon": _polygon(5),
    "hexagon": _polygon(6),
}
"""By plotly's names."""

DASH_ARRAYS = {"solid": "", "dash": "5 3", "dot": "1.5 2.5", "dashdot": "5 2.5 1.5 2.5"}
"""By plotly's names, for a line 26 long."""


def legend_mark(style: Style) -> dict[str, str]:
    """What a template needs to draw a legend's line and marker."""
    return {"colour": style.colour, "path": MARKER_PATHS[style.marker], "dash": DASH_ARRAYS[style.dash]}
