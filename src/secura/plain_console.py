"""The screen: what rows, names and folders hold is shown as plain text, and neither styles nor steers anything."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from secura.visible import visible


class PlainConsole(Console):
    """rich's console without markup and emoji codes, and with every control character of a text written out.

    rich strips a bell, but passes on an escape, with which a text could clear the screen or rename the window.
    """

    def __init__(self, *, quiet: bool = False, stderr: bool = False, width: int | None = None) -> None:
        super().__init__(quiet=quiet, stderr=stderr, width=width, markup=False, emoji=False)

    def render_str(self, text: str, **how: Any) -> Text:
        """A text as it is laid out: written out first, so that no column is too narrow for it."""
        return super().render_str(visible(text), **how)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of what is shown; rich's own controls, such as those that redraw a bar, stay."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)
