"""Divergences of next-token distributions as loops over Python floats; imports nothing of secura."""

import math
from collections.abc import Sequence


def probabilities(logits: Sequence[float], temperature: float = 1.0) -> list[float]:
    weights = [math.exp(one / temperature) for one in logits]
    return [one / sum(weights) for one in weights]


def kl(wanted: Sequence[float], given: Sequence[float]) -> float:
    return sum(q * math.log(q / p) for q, p in zip(wanted, given, strict=True))


def softened_kl(teacher: Sequence[float], model: Sequence[float], temperature: float) -> float:
    return temperature**2 * kl(probabilities(teacher, temperature), probabilities(model, temperature))


def kl_without(teacher: Sequence[float], model: Sequence[float], gold: int) -> float:
    rest = [place for place in range(len(model)) if place != gold]
    return kl(probabilities([teacher[place] for place in rest]), probabilities([model[place] for place in rest]))


def likeliest(logits: Sequence[float], count: int) -> list[int]:
    return sorted(range(len(logits)), key=lambda place: -logits[place])[:count]


def kl_over_likeliest(teacher: Sequence[float], model: Sequence[float], count: int) -> float:
    q, p = probabilities(teacher), probabilities(model)
    top = likeliest(teacher, count)
    rest = [place for place in range(len(model)) if place not in top]
    merged_q = [q[place] for place in top] + [sum(q[place] for place in rest)]
    merged_p = [p[place] for place in top] + [sum(p[place] for place in rest)]
    return kl(merged_q, merged_p)
