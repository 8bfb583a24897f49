"""Regular expressions out of a config: refused where matching a name might not end."""

import re
from collections.abc import Iterator
from typing import Any

from secura.errors import ConfigError

try:
    from re import _parser as _regex_parser  # type: ignore[attr-defined]
except ImportError:  # Python 3.10
    import sre_parse as _regex_parser  # type: ignore[no-redef]

_LONGEST = 2000
_MOST_REPEATS = 4
"""Of unbounded repeats one after the other: each multiplies the time by the length of a name."""
_UNBOUNDED = 64
"""From so many repetitions on, a bound is as good as none."""


def check_pattern(key: str, pattern: str) -> None:
    """Refuse what is no regular expression, or one whose matching might take forever.

    Raises:
        ConfigError: naming the setting.
    """
    shown = repr(pattern[:80])
    if len(pattern) > _LONGEST:
        raise ConfigError(f"{key} is an expression of {len(pattern)} characters; it may have {_LONGEST}.")
    try:
        parsed = _regex_parser.parse(pattern)
        repeats = sum(_unbounded_repeats(parsed, inside=False))
    except (re.error, RecursionError, OverflowError) as problem:
        raise ConfigError(f"{key} is {shown}, which is no regular expression: {problem}.") from problem
    except _RunsAway as problem:
        raise ConfigError(f"{key} is {shown}, whose repeats lie in each other; matching it might not end.") from problem
    if repeats > _MOST_REPEATS:
        raise ConfigError(f"{key} is {shown}, with {repeats} unbounded repeats; it may have {_MOST_REPEATS}.")


class _RunsAway(Exception):
    pass


def _unbounded_repeats(parsed: Any, *, inside: bool) -> Iterator[int]:
    for operation, argument in parsed:
        if str(operation) in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
            _, most, repeated = argument
            unbounded = most >= _UNBOUNDED
            if unbounded and inside:
                raise _RunsAway
            if unbounded:
                yield 1
            yield from _unbounded_repeats(repeated, inside=inside or most > 1)
        elif str(operation) == "BRANCH":
            for branch in argument[1]:
                yield from _unbounded_repeats(branch, inside=inside)
        elif isinstance(argument, tuple):
            for part in argument:
                if isinstance(part, _regex_parser.SubPattern):
                    yield from _unbounded_repeats(part, inside=inside)
        elif isinstance(argument, _regex_parser.SubPattern):
            yield from _unbounded_repeats(argument, inside=inside)
