"""Whether a difference between two models is more than luck, from the same items asked of both.

Everything here is paired: item j before with item j after. An unpaired comparison adds the
spread between items, which is most of the noise, to both sides.

    right or wrong   exact McNemar test, Bonett-Price interval
    one share        exact binomial interval, by Clopper and Pearson
    graded scores    sign-flip permutation test, paired bootstrap interval
    several tasks    Holm's correction of the p values

SciPy computes what it has: the binomial test and its interval, the permutation test and the
bootstrap. Bonett-Price, Holm's correction, and what n items can show are not in it.

Why right and wrong gets no bootstrap interval: a resample of items that never flipped holds
no flip either, so the interval of a small loss is far too narrow. Intervals meant to cover
95 %, with 2 % of answers lost and 0.5 % won (600 trials each):

    items   paired bootstrap   Bonett-Price
       30               46 %          100 %
      100               84 %          99.8 %
      500               95 %          96.5 %

Bonett-Price covers 93.2 % at worst, where nothing but losses occurs.

The bootstrap of graded scores shares that weakness where few items differ: with 5 % of 100
items changed it covered 85 %. BCa did no better (78 %), so the plain percentiles are used.

Sources: McNemar 1947; Clopper and Pearson 1934, doi:10.1093/biomet/26.4.404; Bonett and
Price 2012, doi:10.3102/1076998611411915; Fagerland, Lydersen and Laake 2014,
doi:10.1002/sim.6148 (which intervals to use for paired proportions); Connor 1987, doi:10.2307/2531961; Holm 1979.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, binom, binomtest, bootstrap, norm, permutation_test

Numbers = NDArray[np.float64]

_VALUES_AT_ONCE = 4_000_000
"""How many numbers a batch of resamples may hold: 32 MB."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A confidence interval."""

    low: float
    """Its lower end."""
    high: float
    """Its upper end."""
    confidence: float
    """How often such an interval holds the true value, as a share of 1."""


@dataclass(frozen=True, kw_only=True)
class PairedComparison:
    """Two models on the same items.

    Call a difference significant by `p`, not by its interval: the exact test is the stricter
    of the two at the edge, and the interval knows nothing of `holm`, which corrects p over
    several tasks. So an interval may leave out 0 where the difference is not significant;
    at 95 % the reverse does not happen for right and wrong.
    """

    difference: float
    """Mean of after − before, in units of the score."""
    low: float
    """Lower end of the interval of `difference`."""
    high: float
    """Upper end of it; equal to `low` where graded scores all differ by the same, most often by nothing."""
    confidence: float
    """What the interval is meant to cover, as a share of 1."""
    p: float
    """How often luck alone makes as large a difference in either direction; 1 where no item differs."""
    test: str
    """The name of the test that gave `p`."""
    interval: str
    """The name of the method that gave `low` and `high`."""
    items: int
    """How many items both models answered."""
    differing: int
    """How many of them scored differently before and after."""
    smallest_visible: float | None
    """The smallest difference, of either sign, that would have been significant among these items.

    By `smallest_significant_difference` for right and wrong. For graded scores z · √Σdⱼ² / n,
    the normal approximation of the sign-flip test. Among `tasks` tasks, of which one alone has
    changed, it must pass the first and strictest step of Holm's correction. None where none could be: too few items,
    or graded scores of which too few differ to know how far they spread.
    """


def compare_paired(
    before: Sequence[float],
    after: Sequence[float],
    *,
    binary: bool,
    confidence: float = 0.95,
    tasks: int = 1,
    seed: int = 0,
) -> PairedComparison:
    """Compare two models on the same items: difference, interval, p value, and what n items can show.

    Two models that answer every item alike have p = 1. Where they were right or wrong, the
    interval still has a width, since items not asked may differ: ±2.7 points for 100 items,
    ±0.3 for 1000. Where scores are graded it has none, and `differing` is 0: how much an
    unseen change would weigh is unknown.

    Args:
        before: score of each item before, in any unit; True and False count as 1 and 0.
        after: score of each item after, in the same order.
        binary: whether scores are right or wrong; they must then all be 1 or 0.
        confidence: of the interval, as a share of 1; `smallest_visible` takes 1 − confidence
            as the level of significance.
        tasks: how many tasks are compared together, this one included; it decides
            `smallest_visible` alone.
        seed: of the resampling that graded scores need.

    Raises:
        ValueError: if the lists are empty or of unequal length, hold NaN or infinity, or
            anything but 0 and 1 where `binary`; or if `confidence` is outside 0..1.
    """
    alpha = 1 - _probability("confidence", confidence)
    differences = _differences(before, after, binary=binary)
    differing = int(np.count_nonzero(differences))
    if binary:
        interval = paired_proportions_interval(before, after, confidence=confidence)
        p, test, method = mcnemar_exact(before, after), "exact McNemar", "Bonett-Price"
        smallest = smallest_significant_difference(len(differences), differing=differing, alpha=alpha / tasks)
    else:
        interval = paired_bootstrap(before, after, confidence=confidence, seed=seed)
        p, test, method = sign_flip_test(before, after, seed=seed), "sign-flip permutation", "paired bootstrap"
        smallest = _smallest_significant_mean(differences, alpha / tasks)
    return PairedComparison(
        difference=float(differences.mean()),
        low=interval.low,
        high=interval.high,
        confidence=confidence,
        p=p,
        test=test,
        interval=method,
        items=len(differences),
        differing=differing,
        smallest_visible=smallest,
    )


def mcnemar_exact(right_before: Sequence[float], right_after: Sequence[float]) -> float:
    """Two-sided p value of the exact McNemar test.

    Of the items that flip, as many should flip each way if nothing changed:

        p = 2 · P(X ≥ max(b, c)), at most 1        X ~ Binomial(b + c, ½)

    with b items flipping from right to wrong and c from wrong to right. Items that do not
    flip say nothing, and p is 1 where none does.
    """
    differences = _differences(right_before, right_after, binary=True)
    lost, won = int((differences < 0).sum()), int((differences > 0).sum())
    return float(binomtest(lost, lost + won, 0.5).pvalue) if lost + won else 1.0


def sign_flip_test(before: Sequence[float], after: Sequence[float], *, resamples: int = 9_999, seed: int = 0) -> float:
    """Two-sided p value of the mean difference, by flipping the signs of the differences.

    If before and after could be swapped without anybody noticing, each difference could as
    well have the other sign:

        p = share of sign patterns s with |Σ sⱼdⱼ| ≥ |Σ dⱼ|

    Over all patterns where there are no more than `resamples`; over that many drawn ones
    otherwise, counting the pattern that was seen among them, so that p is never 0.
    """
    differences = _differences(before, after)
    differences = differences[differences != 0]  # a zero keeps its value under either sign
    if len(differences) < 2:  # either sign of a single one is as extreme
        return 1.0
    scale = np.abs(differences).sum()

    def size(values: Numbers, axis: int) -> Numbers:
        # Rounded: sums that are equal in exact arithmetic differ in their last bits by the order of addition.
        return np.round(np.abs(values.sum(axis)) / scale, 12)

    found = permutation_test(
        (differences,),
        size,
        permutation_type="samples",
        alternative="greater",
        vectorized=True,
        n_resamples=resamples,
        batch=_rows_at_once(8 * len(differences)),  # it holds two signs of each, and their places
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def paired_bootstrap(
    before: Sequence[float],
    after: Sequence[float],
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Interval of the mean of after − before, from items drawn again with replacement.

    The percentiles of the resampled means: ½(1 − confidence) of them lie below, as many
    above. The same seed gives the same interval.
    """
    _probability("confidence", confidence)
    differences = _differences(before, after)
    if len(differences) == 1:  # drawn again, one item is itself
        return Interval(low=float(differences[0]), high=float(differences[0]), confidence=confidence)
    found = bootstrap(
        (differences,),
        np.mean,
        method="percentile",
        vectorized=True,
        confidence_level=confidence,
        n_resamples=resamples,
        batch=_rows_at_once(len(differences)),
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(low=float(found.low), high=float(found.high), confidence=confidence)


def share_interval(count: int, of: int, *, confidence: float = 0.95) -> Interval:
    """Exact interval of a share, by Clopper and Pearson: what other items of the kind might have given.

    Either end is wrong in at most ½(1 − confidence) of all cases, however few the items. Of n
    items of which none or all count, the other end is 1 − (½(1 − confidence))^(1/n), or 1 minus that.

    Args:
        count: how many items count.
        of: how many there are, from 1.
        confidence: of both ends together, as a share of 1.
    """
    found = binomtest(count, of).proportion_ci(confidence_level=_probability("confidence", confidence), method="exact")
    return Interval(low=float(found.low), high=float(found.high), confidence=confidence)


def paired_proportions_interval(
    right_before: Sequence[float], right_after: Sequence[float], *, confidence: float = 0.95
) -> Interval:
    """Interval of the difference between two paired shares of right answers, by Bonett and Price.

        d ± z · √((p₁ + p₂ − d²) / (n + 2))        p₁ = (lost + 1)/(n + 2), p₂ = (won + 1)/(n + 2), d = p₂ − p₁

    It is what a normal interval becomes when one imagined item flips each way, which keeps
    it honest where none or all of the real ones do.
    """
    alpha = 1 - _probability("confidence", confidence)
    differences = _differences(right_before, right_after, binary=True)
    count = len(differences) + 2
    lost, won = ((differences < 0).sum() + 1) / count, ((differences > 0).sum() + 1) / count
    middle = won - lost
    margin = norm.isf(alpha / 2) * math.sqrt((lost + won - middle**2) / count)
    return Interval(low=max(-1.0, float(middle - margin)), high=min(1.0, float(middle + margin)), confidence=confidence)


def fewest_significant_flips(alpha: float = 0.05) -> int:
    """How many items must flip, all of them the same way, for McNemar's p to reach alpha.

    k items flipping one way have p = 2 · ½ᵏ, so k = ⌈log₂(2/alpha)⌉: 6 for 0.05, 8 for 0.01.
    """
    return math.ceil(math.log2(2 / _probability("alpha", alpha)))


def smallest_significant_difference(items: int, *, differing: int = 0, alpha: float = 0.05) -> float | None:
    """The smallest difference between two shares of right answers that McNemar's test calls significant.

    Of m items that flip, w must flip the same way, with w the least for which
    2 · P(Binomial(m, ½) ≥ w) ≤ alpha. The difference is then (2w − m)/items.

    Args:
        items: how many items were asked.
        differing: m, how many of them flip either way; the fewest that can be significant
            where it is below that, which is the best case.
        alpha: level of significance, as a share of 1.

    Returns:
        The difference as a share of 1, or None where even all items flipping the same way
        would not be significant.
    """
    flips = max(differing, fewest_significant_flips(alpha))
    if flips > items:
        return None
    one_way = int(binom.isf(alpha / 2, flips, 0.5)) + 1
    return (2 * one_way - flips) / items


def smallest_detectable_difference(
    items: int, *, differing: float | None = None, alpha: float = 0.05, power: float = 0.8
) -> float | None:
    """The smallest true loss that `items` paired items would reveal with probability `power`.

    What to ask before a run; `smallest_significant_difference` is for after it. Where answers
    flip one way only, a loss d is found when at least k = `fewest_significant_flips` do:

        P(Binomial(n, d) ≥ k) = power,  so that  d = the `power` quantile of Beta(k, n − k + 1)

    Where a share ψ of answers flips, some each way, Connor's normal approximation:

        n d² = (z(1 − alpha/2) √ψ + z(power) √(ψ − d²))²

    Args:
        items: n, how many items are asked.
        differing: ψ, the share of answers that flips either way; None where all flip one way.
        alpha: level of significance, two-sided.
        power: probability of finding such a loss.

    Returns:
        The difference as a share of 1; None where no difference is large enough to be found.

    Example:
        >>> round(smallest_detectable_difference(100), 3), round(smallest_detectable_difference(1000), 4)
        (0.078, 0.0079)
        >>> round(smallest_detectable_difference(1000, differing=0.1), 3)
        0.028
    """
    least = fewest_significant_flips(alpha)
    if least > items:
        return None
    if differing is None:
        return float(beta.ppf(_probability("power", power), least, items - least + 1))
    if not 0 < differing <= 1:
        raise ValueError(f"differing is {differing}, but it is a share of the items, above 0 and up to 1.")
    # The formula above, solved for d: (n + v²) d² − 2 u √n d + u² − v² ψ = 0.
    u, v = norm.isf(alpha / 2) * math.sqrt(differing), norm.ppf(_probability("power", power))
    lead, half = items + v**2, u * math.sqrt(items)
    found = (half + math.copysign(math.sqrt(max(0.0, half**2 - lead * (u**2 - v**2 * differing))), v)) / lead
    return float(found) if found <= differing else None


def holm(p_values: Sequence[float]) -> list[float]:
    """P values corrected for testing several tasks at once, by Holm's step-down procedure.

    With p₍₁₎ ≤ … ≤ p₍ₘ₎, the i-th becomes the largest of (m − j + 1) · p₍ⱼ₎ over j ≤ i, at
    most 1. Calling significant what is then ≤ alpha makes even one false alarm among the m
    tasks no likelier than alpha, however the tasks depend on each other.

    Returns:
        One corrected value for each p, in their order.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    raw = np.asarray(p_values, float)
    if raw.size and not (raw.min() >= 0 and raw.max() <= 1):
        raise ValueError(f"p values are {list(p_values)}, but each must lie in 0..1.")
    order = raw.argsort(kind="stable")
    corrected = np.empty_like(raw)
    corrected[order] = np.maximum.accumulate(raw[order] * np.arange(len(raw), 0, -1)).clip(max=1)
    return corrected.tolist()


def _smallest_significant_mean(differences: Numbers, alpha: float) -> float | None:
    """z · √Σdⱼ² / n: what the mean must reach, Σ±dⱼ being close to normal with variance Σdⱼ² under random signs."""
    # Fewer differences than McNemar needs flips have too few sign patterns as well.
    if np.count_nonzero(differences) < fewest_significant_flips(alpha):
        return None
    return float(norm.isf(alpha / 2) * math.sqrt((differences**2).sum()) / len(differences))


def _differences(before: Sequence[float], after: Sequence[float], *, binary: bool = False) -> Numbers:
    """After − before, item by item, once both lists have been found fit to compare."""
    if len(before) != len(after):
        raise ValueError(f"{len(before)} scores before and {len(after)} after cannot be paired.")
    if not len(before):
        raise ValueError("there are no scores to compare.")
    old, new = np.asarray(before, float), np.asarray(after, float)
    both = np.concatenate([old, new])
    if not np.isfinite(both).all():
        raise ValueError("a score is NaN or infinite, so nothing can be compared.")
    if binary and not np.isin(both, (0, 1)).all():
        odd = both[~np.isin(both, (0, 1))][0]
        raise ValueError(f"a score is {odd}, but right and wrong are 1 and 0; compare graded scores with binary=False.")
    return new - old


def _probability(name: str, value: float) -> float:
    if not 0 < value < 1:
        raise ValueError(f"{name} is {value}, but it must lie between 0 and 1, ends left out.")
    return value


def _rows_at_once(width: int) -> int:
    return max(1, _VALUES_AT_ONCE // width)
