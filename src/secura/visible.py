"""Text of rows, names and answers as a terminal may show it: nothing in it acts on the terminal."""

import json
import unicodedata

_ACTS = ("Cc", "Cf", "Cs", "Co")
"""Kinds of characters that are not seen: control, format such as a change of direction, surrogate, private use."""


def visible(text: str) -> str:
    """A text with what would act on the terminal written out, such as `\\x1b`; spaces and line breaks stay."""
    if text.isprintable():
        return text
    return "".join(each if _is_harmless(each) else each.encode("unicode_escape").decode() for each in text)


def visible_json(text: str) -> str:
    """JSON, with what would act on the terminal as JSON's own escapes, such as `\\u009b`: it means the same."""
    return "".join(each if _is_harmless(each) else json.dumps(each)[1:-1] for each in text)


def _is_harmless(character: str) -> bool:
    return character in "\n\t \u200d" or unicodedata.category(character) not in _ACTS


def in_one_line(text: str) -> str:
    """A text on one line, visible, however long."""
    return " ".join(visible(text).split())


def on_one_line(text: str, limit: int, *, from_end: bool = False) -> str:
    """A text on one line, visible, and cut to so many characters."""
    text = in_one_line(text)
    if len(text) <= limit:
        return text
    return "…" + text[1 - limit :] if from_end else text[: limit - 1] + "…"
