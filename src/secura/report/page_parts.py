"""What every page of ours is made of: templates, own files, plotly, and data that no text can break out of."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from jinja2 import Environment
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from secura.report.templates import templates

_SECTIONS = ("settings", "provenance", "versions", "hardware")
"""Parts of a record whose own names add nothing to those of what they hold."""


def page_templates() -> Environment:
    """The templates of `report/page`; whatever comes from data is escaped."""
    return templates(escaped=True)


def own_file(templates: Environment, name: str) -> Markup:
    """A stylesheet or a script of ours, to stand in a page as it is."""
    source: Any = templates.loader
    return Markup(source.get_source(templates, name)[0])


def plotly_script() -> Markup:
    """All of plotly, so that a page needs no network."""
    return Markup(get_plotlyjs())


def for_script(value: Any) -> Markup:
    """JSON that no text within can end the script element of, whatever it holds."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))  # ASCII alone: no line separators either
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def flat_facts(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a result was made with, flat, as pairs of name and text."""

    def flat(value: Any, name: tuple[str, ...]) -> Iterator[tuple[str, str]]:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                yield from flat(inner, (*name, key) if key not in _SECTIONS else name)
        elif value not in (None, [], (), ""):
            shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            yield " ".join(name).replace("_", " "), shown

    return list(flat(record, ()))
