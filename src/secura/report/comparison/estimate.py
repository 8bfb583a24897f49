"""A mean over repeated runs with its interval, and who leads, where that can be told at all.

    mean ± t(0.975, n − 1) · s / √n         over n seeds or orders

The interval tells how far another seed may land, and nothing of which questions were asked.
One run has no interval, and so is never said to lead or to trail.

Runs may agree to the last answer: two seeds that both keep 76 of 78 have s = 0, and an
interval of no width would be clear of everything. A share of n answers is known to 1/n, whose
rounding has the standard deviation 1/(n√12), so s is taken to be at least that.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from secura.experiments.comparison.query.seed_means import mean_over_seeds


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The mean of a number over runs."""

    mean: float
    """Over the runs, each counting once."""
    low: float | None
    """Lower end of its interval; None for a single run."""
    high: float | None
    """Upper end."""
    count: int
    """How many runs."""

    @property
    def margin(self) -> float | None:
        """Half the interval before any end was cut off; None for a single run."""
        if self.low is None or self.high is None:
            return None
        return max(self.mean - self.low, self.high - self.mean)


def estimate(
    values: Sequence[float], *, floor: float = -math.inf, ceiling: float = math.inf, step: float = 0.0
) -> Estimate | None:
    """The mean and its 95 % t interval; None where there is no value.

    Args:
        values: one for each run, such as one a seed.
        floor: what the number cannot go below; an interval is cut off there.
        ceiling: what it cannot go above.
        step: the difference that one answer makes to the number of a run; 0 where it is not of answers.
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite or len(finite) < len(values):
        return None
    found = mean_over_seeds(finite)
    mean, half = found.mean, found.half_width
    if half is None:
        return Estimate(mean=mean, low=None, high=None, count=1)
    # The interval of rounding alone: that of two or more values whose s is step/√12.
    spread = statistics.stdev(finite)
    least = step / math.sqrt(12)
    if spread < least:
        half = mean_over_seeds(_with_spread(least, len(finite))).half_width or 0.0
    return Estimate(mean=mean, low=max(floor, mean - half), high=min(ceiling, mean + half), count=found.count)


def _with_spread(spread: float, count: int) -> list[float]:
    """So many values with that standard deviation."""
    half, odd = divmod(count, 2)
    apart = spread * math.sqrt((count - 1) / (2 * half))
    return [apart] * half + [-apart] * half + [0.0] * odd


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Who has the best mean, and who cannot be told apart from it."""

    best: str
    """The name with the best mean."""
    tied: tuple[str, ...]
    """Names whose interval meets the best one's, best mean first."""
    unknown: tuple[str, ...]
    """Names with a single run, which has no interval; the best among them where it has none itself."""

    @property
    def clear(self) -> bool:
        """Whether every other name's interval lies wholly on the worse side of the best one's."""
        return not self.tied and not self.unknown


def standing(estimates: Mapping[str, Estimate], *, lower_is_better: bool) -> Standing | None:
    """Find the best; None where there are fewer than two to compare."""
    if len(estimates) < 2:
        return None
    sign = -1 if lower_is_better else 1
    order = sorted(estimates, key=lambda name: -sign * estimates[name].mean)
    best, others = order[0], order[1:]
    unknown = tuple(name for name in order if estimates[name].margin is None)
    if best in unknown:
        return Standing(best=best, tied=(), unknown=unknown)
    tied = tuple(name for name in others if name not in unknown and meet(estimates[best], estimates[name]))
    return Standing(best=best, tied=tied, unknown=unknown)


def meet(one: Estimate, other: Estimate) -> bool:
    """Whether two intervals share a point; one of a single run, or without width, is taken to meet every other."""
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return True
    if one.low == one.high or other.low == other.high:
        return True  # runs that agree entirely, in a number of unknown coarseness
    return one.low <= other.high and other.low <= one.high
