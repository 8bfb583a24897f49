"""The strategies' formulas as loops over Python floats, for the model of two parameters.

A row is a list of tokens, 0 or 1; after a token x the next one is 1 with probability
sigmoid(slope (x + 1) + offset).
"""

import itertools
import math
from collections.abc import Sequence

Parameters = tuple[float, float]
Rows = Sequence[Sequence[int]]


def probability_of_one(parameters: Parameters, token: int) -> float:
    return 1 / (1 + math.exp(-(parameters[0] * (token + 1) + parameters[1])))


def gradient_of_log_likelihood(parameters: Parameters, row: Sequence[int]) -> tuple[float, float]:
    slope = offset = 0.0
    for token, following in itertools.pairwise(row):
        surprise = following - probability_of_one(parameters, token)
        slope += surprise * (token + 1)
        offset += surprise
    return slope, offset


def fisher_per_example(parameters: Parameters, rows: Rows) -> tuple[float, float]:
    slope = offset = 0.0
    for row in rows:
        one = gradient_of_log_likelihood(parameters, row)
        slope += one[0] ** 2 / len(rows)
        offset += one[1] ** 2 / len(rows)
    return slope, offset


def fisher_batch_mean(parameters: Parameters, batches: Sequence[Rows]) -> tuple[float, float]:
    slope = offset = 0.0
    for batch in batches:
        mean_slope = sum(gradient_of_log_likelihood(parameters, row)[0] for row in batch) / len(batch)
        mean_offset = sum(gradient_of_log_likelihood(parameters, row)[1] for row in batch) / len(batch)
        slope += mean_slope**2 / len(batches)
        offset += mean_offset**2 / len(batches)
    return slope, offset


def ewc_term(
    parameters: Parameters, fishers: Sequence[Parameters], anchors: Sequence[Parameters], strength: float
) -> float:
    total = 0.0
    for fisher, anchor in zip(fishers, anchors, strict=True):
        for place in (0, 1):
            total += fisher[place] * (parameters[place] - anchor[place]) ** 2
    return strength / 2 * total


def mean_kl(reference: Parameters, parameters: Parameters, tokens: Sequence[int], temperature: float = 1.0) -> float:
    """KL after each of the tokens, times temperature²."""
    total = 0.0
    for token in tokens:
        wanted = probability_of_one((reference[0] / temperature, reference[1] / temperature), token)
        given = probability_of_one((parameters[0] / temperature, parameters[1] / temperature), token)
        total += wanted * math.log(wanted / given) + (1 - wanted) * math.log((1 - wanted) / (1 - given))
    return temperature**2 * total / len(tokens)


def mean_cross_entropy(parameters: Parameters, rows: Rows) -> float:
    total, count = 0.0, 0
    for row in rows:
        for token, following in itertools.pairwise(row):
            one = probability_of_one(parameters, token)
            total -= math.log(one if following else 1 - one)
            count += 1
    return total / count


def mean_squared_score_distance(first: Parameters, second: Parameters, rows: Rows) -> float:
    total, count = 0.0, 0
    for row in rows:
        for token in row:
            total += ((first[0] - second[0]) * (token + 1) + first[1] - second[1]) ** 2
            count += 1
    return total / count


def o_lora_term(
    factor: Sequence[Parameters], earlier_factors: Sequence[Sequence[Parameters]], strength: float
) -> float:
    """Squared inner products of the rows of A with those of every earlier task's."""
    total = 0.0
    for earlier in earlier_factors:
        for old in earlier:
            for row in factor:
                total += (old[0] * row[0] + old[1] * row[1]) ** 2
    return strength * total
