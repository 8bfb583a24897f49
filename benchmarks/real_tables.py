"""Tables of the study on a real model, from the records of `make real-study`: forgetting at matched gain.

    python benchmarks/real_tables.py [runs/real-study] [--reference LoRA] [--by-text]

A run is a curve of points, each with a gain (nats a token that the held-out rows became cheaper) and with what is
forgotten (mean rise in nats a token over texts never trained on). At 98 and 90 % of the gain that the reference method
has at its end with the same seed, forgetting is read off a method's own dial: linearly, between those two of its points
at the end of the run that enclose that gain. A method whose gain never comes so far has no number there. LoRA's own
row is *LoRA scaled back*, what every other method has to beat.

With `--by-text` forgetting is shown text by text, at the end of each run, and what share it is of the reference's.
"""

import argparse
import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from scipy.stats import t

from secura.experiments.comparison.runs.curve_point import CurvePoint
from secura.experiments.comparison.runs.record import RunRecord
from secura.experiments.comparison.runs.record_files import read_records

SHARES = (0.98, 0.9)
Place = tuple[float, float]
"""Gain in nats a token, and what it costs: nats a token forgotten, or a share of the answers lost."""


def dial_of(record: RunRecord, cost: Callable[[CurvePoint, CurvePoint], float]) -> list[Place]:
    """The points at the end of a run, from the base on, in order of the dial; each with its gain and its cost."""
    base, last = record.curve[0], max(point.step for point in record.curve)
    end = sorted((point for point in record.curve if point.step == last), key=lambda point: point.dial)
    return [(gained(base, point), cost(base, point)) for point in (base, *end)]


def gained(base: CurvePoint, point: CurvePoint) -> float:
    """Gain of a point, in nats an answer token."""
    assert base.task_nats is not None
    assert point.task_nats is not None
    return base.task_nats - point.task_nats


def risen(base: CurvePoint, point: CurvePoint) -> float:
    """What a point has forgotten, in nats a token."""
    return statistics.fmean(point.text_nats[name] - before for name, before in base.text_nats.items())


def lost(base: CurvePoint, point: CurvePoint) -> float:
    """Share of the base's right answers that a point has lost."""
    assert base.right is not None
    assert point.right is not None
    return 1 - len(point.right) / len(base.right)


def forgotten_at(places: Sequence[Place], gain: float) -> float | None:
    """What is forgotten where so much is gained: the least, where the curve passes that gain more than once."""
    found = []
    for (low, low_cost), (high, high_cost) in itertools.pairwise(places):
        if min(low, high) <= gain <= max(low, high) and low != high:
            found.append(low_cost + (gain - low) / (high - low) * (high_cost - low_cost))
    return min(found, default=None)


def shown(values: Sequence[float | None], digits: int = 3) -> str:
    """Mean and 95 % interval over the seeds."""
    if not values or None in values:
        return f"in {sum(value is not None for value in values)} of {len(values)}"
    known = [value for value in values if value is not None]
    mean = statistics.fmean(known)
    if len(known) < 2:
        return f"{mean:.{digits}f}"
    half = t.ppf(0.975, len(known) - 1) * statistics.stdev(known) / len(known) ** 0.5
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


def table(records: Sequence[RunRecord], reference: str) -> str:
    """One task's table."""
    runs = {(record.label, record.learning_rate, record.seed): record for record in records}
    ends = {seed: dial_of(record, risen)[-1][0] for (label, _, seed), record in runs.items() if label == reference}
    asked = all(record.curve[0].right for record in records)
    heads = ["method", "rate", "seeds", "gain", "forgotten", *(f"at {share:.0%} of gain" for share in SHARES)]
    if asked:
        heads += ["kept, %", *(f"kept at {share:.0%}" for share in SHARES)]
    lines = [" | ".join(["", *heads, "s", ""]).strip(), "|" + "---|" * (len(heads) + 1)]
    for label, rate in dict.fromkeys((label, rate) for label, rate, _ in runs):
        own = {seed: record for (name, other, seed), record in runs.items() if (name, other) == (label, rate)}
        matched = {seed: record for seed, record in own.items() if seed in ends}
        cells = [shown([dial_of(record, risen)[-1][0] for record in matched.values()]), *_costs(matched, ends, risen)]
        if asked:
            cells += _costs(matched, ends, lost)
        seconds = statistics.fmean(record.cost.training_seconds or 0.0 for record in own.values())
        lines.append(" | ".join(["", label, f"{rate:g}", str(len(own)), *cells, f"{seconds:.0f}", ""]).strip())
    return "\n".join(lines)


def _costs(
    runs: Mapping[int, RunRecord], ends: Mapping[int, float], cost: Callable[[CurvePoint, CurvePoint], float]
) -> list[str]:
    """What all of the change costs, and what it costs scaled back to each share of the reference's gain."""
    places = {seed: dial_of(record, cost) for seed, record in runs.items()}
    found = [
        [each[-1][1] for each in places.values()],
        *([forgotten_at(each, share * ends[seed]) for seed, each in places.items()] for share in SHARES),
    ]
    if cost is risen:
        return [shown(each) for each in found]
    return [shown([None if value is None else 100 - 100 * value for value in each], digits=1) for each in found]


def table_by_text(records: Sequence[RunRecord], reference: str) -> str:
    """One task's table, a column a text: what is forgotten of it, and that as a share of the reference's, its mean."""
    runs = {(record.label, record.learning_rate, record.seed): risen_by_text(record) for record in records}
    texts = list(next(iter(runs.values())))
    references = [risen for (label, _, _), risen in runs.items() if label == reference]
    usual = {text: statistics.fmean(risen[text] for risen in references) if references else 0.0 for text in texts}
    lines = ["| method | rate | seeds | " + " | ".join(texts) + " |", "|---|---|---|" + "---|" * len(texts)]
    for label, rate in dict.fromkeys((label, rate) for label, rate, _ in runs):
        own = [risen for (name, other, _), risen in runs.items() if (name, other) == (label, rate)]
        cells = []
        for text in texts:
            share = f" ({statistics.fmean(each[text] for each in own) / usual[text]:.0%})" if usual[text] > 0 else ""
            cells.append(shown([each[text] for each in own]) + share)
        lines.append(f"| {label} | {rate:g} | {len(own)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def risen_by_text(record: RunRecord) -> dict[str, float]:
    """By how many nats a token each text has become dearer at the end of a run."""
    base = record.curve[0]
    end = max(record.curve, key=lambda point: (point.step, point.dial))
    return {text: end.text_nats[text] - before for text, before in base.text_nats.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/real-study"))
    parser.add_argument("--reference", default="LoRA")
    parser.add_argument("--by-text", action="store_true")
    arguments = parser.parse_args()
    show = table_by_text if arguments.by_text else table
    records = [each for each in read_records(arguments.folder) if each.curve and each.status == "success"]
    for grid, task in dict.fromkeys((each.grid, each.task) for each in records):
        print(f"\n{grid}, {task}\n")
        print(show([each for each in records if (each.grid, each.task) == (grid, task)], arguments.reference))


if __name__ == "__main__":
    main()
