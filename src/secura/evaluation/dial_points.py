"""Which points of the dial are asked: those named, and some between the two that a budget falls between."""

from collections.abc import Callable, Mapping, Sequence

from secura.errors import ConfigError

DEFAULT_GRID = (0.25, 0.5, 0.75, 1.0)


def check_grid(scales: Sequence[float]) -> tuple[float, ...]:
    """The points in order, each once, without the base, which is known.

    Raises:
        ConfigError: if one is below 0 or above 2, or none is left.
    """
    for scale in scales:
        if not 0 <= scale <= 2:
            raise ConfigError(f"--at names {scale:g}; give a number from 0 (the base) to 2 (twice what was learned).")
    found = tuple(sorted({float(scale) for scale in scales} - {0.0}))
    if not found:
        raise ConfigError("--at has no point above 0, and 0 is the base; name some, such as 0.25,0.5,0.75,1.")
    return found


def next_between(scales: Sequence[float], reaches: Callable[[float], bool]) -> float | None:
    """The middle of the two points between which a budget ends; None where all points keep it.

    What is kept need not fall evenly as the dial is turned up. Taken are the largest point that reaches the budget,
    the base if there is none, and the one above it.

    Args:
        scales: points asked so far, in order, without the base.
        reaches: whether a point keeps enough.
    """
    held = [scale for scale in scales if reaches(scale)]
    low = max(held, default=0.0)
    above = [scale for scale in scales if scale > low]
    return (low + above[0]) / 2 if above else None


def ask_between(
    asked: Mapping[float, object], ask: Callable[[float], None], reaches: Callable[[float], bool], *, times: int
) -> None:
    """Ask up to so many points more, each between the two where the budget ends by then.

    Args:
        asked: by the points asked so far, without the base; `ask` adds to it.
        ask: asks a point.
        reaches: whether a point keeps enough.
        times: how many points are asked at most.
    """
    for _ in range(times):
        scale = next_between(sorted(asked), reaches)
        if scale is None:
            break
        ask(scale)
