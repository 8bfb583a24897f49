"""A certificate that enough was kept: one exact test, on questions that had no say in the model.

What is tested. Let q be the share of questions that the chosen model still answers right among all questions like the
probe's that the base answers right: *kept*, as `secura.evaluation.tally` defines it. The hypothesis is q < keep. With
k of n certify questions still right it is rejected at confidence c where

    P(Binomial(n, keep) >= k) <= 1 - c,      which is to say where Clopper and Pearson's one-sided lower bound
                                             BetaInv(1 - c; k, n - k + 1) is at least keep.

How many points were tried does not matter. Points of the dial are chosen by the select questions alone: among those
whose lower bound there reaches keep, the one of best gain; where the select questions are too few to show that of any,
the one that keeps most, if that is keep at least. That choice may be as lucky as it likes; the certify questions were
asked at no other point, so for the point that was chosen the test is one test of a hypothesis fixed
beforehand, and certifies a model that keeps less than keep in at most 1 - c of all cases. This is fixed-sequence
testing of length one after a split, the simplest form of Learn then Test. Asking the certify questions again, at
another point or after more training, is a second look and voids it.

A question is kept or lost. What became right (wrong before) makes up for nothing and is not counted; the questions
that the base has wrong are not in the test.

It speaks of the distribution its probe was drawn from, and of this one model. It is silent on other knowledge.

Sources:
    Clopper and Pearson 1934, doi:10.1093/biomet/26.4.404; Learn then Test, arXiv:2110.01052.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.special import betaincinv
from scipy.stats import binom, norm

from secura.errors import ConfigError
from secura.evaluation.tally import CONFIDENCE, limit_text, percent

Outcome = Literal["certified", "not shown", "not reachable", "too few to tell"]

MOST_ITEMS = 1_000_000
"""Beyond so many questions nobody asks."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One point of the dial, as the select questions and the validation rows see it."""

    scale: float
    """By what the learned change is multiplied."""
    gain: float
    """What is gained on the new task; higher is better."""
    kept: int
    """How many of the select questions are still answered right."""


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What was shown, and what it was shown with."""

    outcome: Outcome
    """What it came to."""
    keep: float
    """The share that was to be kept."""
    confidence: float
    """Of the one-sided bound."""
    seed: int
    """Parted the probe."""
    select_items: int
    """Questions that the base answers right, for choosing."""
    items: int
    """Questions that the base answers right, for certifying."""
    points: int
    """How many points of the dial were chosen from."""
    scale: float | None = None
    """The point that was chosen, or the best where none reaches; None where no point could be chosen."""
    kept: int | None = None
    """Certify questions still right at the chosen point; None where they were not asked."""
    best_kept: int | None = None
    """Select questions still right at the best point, where none reaches."""

    @property
    def share(self) -> float | None:
        """Kept of the certify questions, as a share."""
        return None if self.kept is None else self.kept / self.items

    @property
    def lower(self) -> float | None:
        """Lower bound of the share kept."""
        return None if self.kept is None else lower_bound(self.kept, self.items, self.confidence)

    @property
    def certified(self) -> bool:
        """Whether it is shown that enough was kept."""
        return self.outcome == "certified"

    @property
    def sentence(self) -> str:
        """One sentence for whoever decides."""
        keep, sure = limit_text(self.keep), f"with {100 * self.confidence:g}% confidence"
        if self.outcome == "certified":
            return (
                f"At least {keep} of what the base answered right it still answers right, {sure}, "
                f"measured once on {self.items:,} held-back questions."
            )
        if self.outcome == "not shown":
            assert self.share is not None
            assert self.lower is not None
            return (
                f"That {keep} is kept is not shown: of {self.items:,} held-back questions that the base answered right "
                f"it still answers {percent(self.share)} right, at least {percent(self.lower)} {sure}."
            )
        if self.outcome == "not reachable":
            assert self.best_kept is not None
            return (
                f"{keep} is not reachable; the best is {percent(self.best_kept / self.select_items)} kept, at "
                f"{self.scale:g} of what was learned."
            )
        return too_few_sentence(self.keep, self.confidence, items=self.items)

    @property
    def explanation(self) -> str:
        """How it was found and what it does not say."""
        said = [
            f"The questions that the base answers right were split once (seed {self.seed}): {self.select_items:,} to "
            f"choose by, {self.items:,} held back to certify with."
        ]
        if self.kept is not None:
            assert self.share is not None
            assert self.lower is not None
            said.append(
                f"The first chose {self.scale:g} of what was learned among {self.points} points of the dial. There "
                f"alone the others were asked: {self.kept:,} of {self.items:,} ({percent(self.share)}) are still "
                f"right, exact one-sided lower bound {percent(self.lower)} (Clopper and Pearson)."
            )
        elif self.outcome == "not reachable":
            said.append(
                f"At none of {self.points} points of the dial are {limit_text(self.keep)} of the first kept, so the "
                "others decide nothing."
            )
        said.append(
            "What the base had wrong and the model now has right makes up for nothing. The certificate speaks of "
            "questions drawn like these, of this one model, and of no other knowledge."
        )
        return " ".join(said)


def check_keep(keep: float) -> None:
    """Refuse a share that is none.

    Raises:
        ConfigError: outside 0..1, and at 1 itself.
    """
    if not 0 <= keep < 1:
        raise ConfigError(
            f"--keep is {keep}; give a share of at least 0 and below 1, such as 0.98: no number of questions "
            "can show that everything is kept."
        )


def check_items(keep: float, *, items: int, ask_more: str, confidence: float = CONFIDENCE) -> None:
    """Refuse questions so few that nothing could be certified, before anything is asked.

    Args:
        keep: the share to be kept.
        items: how many there are to certify with, if the base answers all of them right.
        ask_more: how the user asks more, such as `raise --count`.
        confidence: of the bound.

    Raises:
        ConfigError: saying how many are needed.
    """
    if items < items_needed(keep, confidence):
        said = too_few_sentence(keep, confidence, items=items)
        raise ConfigError(f"{said} {ask_more[:1].upper()}{ask_more[1:]}, or lower --keep.")


def items_needed(keep: float, confidence: float = CONFIDENCE, *, true_kept: float = 1.0, power: float = 0.8) -> int:
    """How many questions, all right before, one test needs to show that a share is kept.

    If nothing flips, n answers show keep where keep^n <= 1 - confidence. If a share 1 - true_kept flips, n is the
    first number at which the test succeeds with probability `power`.

    Args:
        keep: the share to be shown, from 0 and below 1.
        confidence: of the one-sided bound.
        true_kept: the share that is kept in truth, above `keep`.
        power: how likely success is to be.

    Raises:
        ValueError: if no number is enough, or too many.

    Example:
        >>> items_needed(0.98), items_needed(0.98, 0.975), items_needed(0.98, true_kept=0.99)
        (149, 183, 969)
    """
    if not 0 <= keep < 1:
        raise ValueError(f"keep is {keep}; it must be at least 0 and below 1.")
    if not keep < true_kept <= 1:
        raise ValueError(f"true_kept is {true_kept}, but must lie above keep, {keep}, and at most at 1.")
    if keep == 0:
        return 1
    alpha = 1 - confidence
    first = max(1, math.ceil(math.log(alpha) / math.log(keep)))
    if true_kept == 1:
        return first
    spread = norm.isf(alpha) * math.sqrt(keep * (1 - keep)) + norm.ppf(power) * math.sqrt(true_kept * (1 - true_kept))
    about = (spread / (true_kept - keep)) ** 2
    if about > MOST_ITEMS:
        raise ValueError(f"more than {MOST_ITEMS:,} items are needed to tell {true_kept} from {keep}.")
    # The chance of success rises in teeth, which are flat where there are many items.
    start = first if about < 20_000 else int(0.95 * about)
    while True:
        counts = np.arange(start, start + 1024)
        most_lost = binom.ppf(alpha, counts, 1 - keep)
        most_lost -= binom.cdf(most_lost, counts, 1 - keep) > alpha
        enough = np.flatnonzero(binom.cdf(most_lost, counts, 1 - true_kept) >= power)
        if len(enough):
            return int(counts[enough[0]])
        start += 1024


def lower_bound(kept: int, items: int, confidence: float = CONFIDENCE) -> float:
    """Clopper and Pearson's one-sided lower bound of a share; 0 where nothing was kept or asked."""
    return float(betaincinv(kept, items - kept + 1, 1 - confidence)) if kept else 0.0


def reaches(kept: int, items: int, keep: float, confidence: float = CONFIDENCE) -> bool:
    """Whether so many kept of so many show that a share is kept."""
    return lower_bound(kept, items, confidence) >= keep


def choose_point(points: Sequence[Point], items: int, keep: float, confidence: float = CONFIDENCE) -> Point | None:
    """Of the points that show `keep` on the select questions, that of best gain; of equals the one that keeps more.

    Where none shows it, the point that keeps most, if its share is `keep` at least: whether it is, the certify
    questions tell.

    Args:
        points: of the dial.
        items: how many select questions there are.
        keep: the share to be kept.
        confidence: of the lower bound.
    """
    reaching = [point for point in points if reaches(point.kept, items, keep, confidence)]
    if reaching:
        return max(reaching, key=lambda point: (point.gain, point.kept, -point.scale))
    near = [point for point in points if items and point.kept / items >= keep]
    return max(near, key=lambda point: (point.kept, point.gain, -point.scale), default=None)


def not_certified(
    points: Sequence[Point], *, keep: float, confidence: float, seed: int, select_items: int, items: int
) -> Certificate | None:
    """What is known before the certify questions are asked: too few of them, or no point that reaches; else None."""
    made = Certificate(
        outcome="too few to tell",
        keep=keep,
        confidence=confidence,
        seed=seed,
        select_items=select_items,
        items=items,
        points=len(points),
    )
    if items < items_needed(keep, confidence) or not select_items:
        return made
    if choose_point(points, select_items, keep, confidence) is not None:
        return None
    best = max(points, key=lambda point: (point.kept, point.gain, -point.scale))
    return _with(made, outcome="not reachable", scale=best.scale, best_kept=best.kept)


def certify(
    scale: float, kept: int, *, keep: float, confidence: float, seed: int, select_items: int, items: int, points: int
) -> Certificate:
    """The one test, on the certify questions at the chosen point.

    Args:
        scale: the chosen point.
        kept: how many of the certify questions are still right there.
        keep: the share to be kept.
        confidence: of the bound.
        seed: parted the probe.
        select_items: how many questions chose.
        items: how many certify.
        points: how many points were chosen from.
    """
    if items < items_needed(keep, confidence):
        raise ValueError(f"{items} questions can certify nothing at {keep}; ask `not_certified` first.")
    return Certificate(
        outcome="certified" if reaches(kept, items, keep, confidence) else "not shown",
        keep=keep,
        confidence=confidence,
        seed=seed,
        select_items=select_items,
        items=items,
        points=points,
        scale=scale,
        kept=kept,
    )


def too_few_sentence(keep: float, confidence: float, *, items: int) -> str:
    """That the questions are too few, and how many are needed."""
    needed = items_needed(keep, confidence)
    likely = 0.99 if keep < 0.99 else (1 + keep) / 2
    try:
        in_truth = f" ({items_needed(keep, confidence, true_kept=likely):,} if {limit_text(likely)} is kept in truth)"
    except ValueError:  # more than anybody asks
        in_truth = ""
    return (
        f"Too few to tell whether {limit_text(keep)} is kept: to certify it, {needed:,} questions that the base "
        f"answers right must be held back if nothing flips{in_truth}; there are {items:,}."
    )


def certificate_as_json(certificate: Certificate) -> dict[str, Any]:
    """A certificate as JSON, its sentences included, so that whoever shows it says the same."""
    return {
        **vars(certificate),
        "share": certificate.share,
        "lower": certificate.lower,
        "needed": items_needed(certificate.keep, certificate.confidence),
        "sentence": certificate.sentence,
        "explanation": certificate.explanation,
    }


def _with(certificate: Certificate, **changed: Any) -> Certificate:
    return Certificate(**{**vars(certificate), **changed})
