"""How a label is drawn, the same in every figure: colours that colour-blind readers tell apart, and a marker each.

The colours are those of Okabe and Ito without yellow, which is lost on white. There are seven
colours and nine markers, so 63 labels differ in one or the other, and neighbours in both.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#e69f00", "#56b4e9")
_MARKERS = (
    *("circle", "square", "diamond", "triangle-up", "triangle-down"),
    *("x", "star", "pentagon", "hexagon"),
)
_DASHES = ("solid", "dash", "dot", "dashdot")

FAINT = "#8d8a83"


@dataclass(frozen=True, kw_only=True)
class Style:
    """Colour, marker and dash of a label."""

    colour: str
    """As #rrggbb."""
    marker: str
    """Plotly's name of the symbol."""
    dash: str
    """Plotly's name of the dash."""

    @property
    def band(self) -> str:
        """The colour at a sixth of its strength."""
        red, green, blue = (int(self.colour[start : start + 2], 16) for start in (1, 3, 5))
        return f"rgba({red},{green},{blue},0.16)"


BASE_STYLE = Style(colour=FAINT, marker="circle", dash="dot")
"""Of the base model, and of whatever else is there to be compared with."""


def styles_of(labels: Iterable[str]) -> Mapping[str, Style]:
    """A style for each label, in the order given."""
    return {
        label: Style(
            colour=_COLOURS[place % len(_COLOURS)],
            marker=_MARKERS[place % len(_MARKERS)],
            dash=_DASHES[place // len(_COLOURS) % len(_DASHES)],
        )
        for place, label in enumerate(dict.fromkeys(labels))
    }


def of_rate(style: Style, rank: int) -> Style:
    """The style of a label at one of its learning rates, the lowest as it is and each other with its own dash."""
    if not rank:
        return style
    return replace(style, dash=_DASHES[(_DASHES.index(style.dash) + rank) % len(_DASHES)])
