"""A number over the seeds of a run: its mean, and how far the mean of other seeds may lie from it.

    mean ± t(0.975, n − 1) · s / √n        s the standard deviation with n − 1 in the denominator

Student's t is wide at few seeds, as it should be: 4.30 at three, 12.7 at two.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class SeedMean:
    """Mean over seeds, with its interval."""

    mean: float
    """Mean over the seeds."""
    half_width: float | None
    """Half the 95 % interval; None at a single seed, which says nothing about others."""
    count: int
    """How many seeds."""


def mean_over_seeds(values: Sequence[float]) -> SeedMean:
    """Mean and 95 % interval of one number a seed.

    Raises:
        ValueError: if there is no value.
    """
    if not values:
        raise ValueError("there is no value to take the mean of.")
    from scipy.stats import t  # slow to import, and `secura --help` gets by without it

    count = len(values)
    half_width = None
    if count > 1:
        quantile = float(t.ppf((1 + CONFIDENCE) / 2, count - 1))
        half_width = quantile * statistics.stdev(values) / math.sqrt(count)
    return SeedMean(mean=statistics.fmean(values), half_width=half_width, count=count)
