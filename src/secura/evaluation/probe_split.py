"""The questions of a probe, parted once: for steering, for selecting, and for certifying.

*Steer* questions may be looked at all through training, *select* questions choose among finished models, and
*certify* questions are asked once, of the model that was chosen. A question is in one part alone, so no look at one
part says anything of luck in another. That holds as long as no question stands twice in the probe.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ProbeSplit:
    """Which questions are for what, as places in the probe, in its order."""

    steer: tuple[int, ...]
    """Looked at in training."""
    select: tuple[int, ...]
    """Asked of every candidate, to choose one."""
    certify: tuple[int, ...]
    """Asked of the one that was chosen, once."""


def split_probe(families: Sequence[str], *, seed: int, steer: float = 0.2, select: float = 0.4) -> ProbeSplit:
    """Part a probe, each family as the whole.

    Family by family, its questions in an order drawn by the seed, each question goes to the part that is furthest
    behind its share so far. So each part has its share of every family and of the whole, to within a question.

    Args:
        families: of each question, in the probe's order; of those alone that the base answers right, since no others
            can be kept.
        seed: draws the parting.
        steer: share of the questions to steer by; 0 where nothing is trained.
        select: share to select by. What is left certifies.

    Raises:
        ValueError: if the shares are no shares, or leave nothing to certify with.
    """
    shares = {"steer": steer, "select": select, "certify": 1 - steer - select}
    if not (steer >= 0 and select >= 0 and shares["certify"] > 0):
        raise ValueError(f"steer is {steer} and select {select}; they are shares of 1 and must leave some to certify.")
    members: dict[str, list[int]] = {}
    for place, family in enumerate(families):
        members.setdefault(family, []).append(place)
    parts: dict[str, list[int]] = {part: [] for part in shares}
    count = 0
    for family in sorted(members):
        random.Random(f"probe/{seed}/{family}").shuffle(members[family])
        for place in members[family]:
            count += 1
            behind = max(shares, key=lambda part: shares[part] * count - len(parts[part]))
            parts[behind].append(place)
    return ProbeSplit(**{part: tuple(sorted(places)) for part, places in parts.items()})
