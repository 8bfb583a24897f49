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
from collections.abc import Sequence
from pathlib import Path

from scipy.stats import t

from secura.experiments.comparison.runs.curve_point import CurvePoint
from secura.experiments.comparison.runs.record import RunRecord
from secura.experiments.comparison.runs.record_files import read_records

SHARES = (0.98, 0.9)
Place = tuple[float, float]
"""Gain and forgetting, in nats a token."""


def dial_of(record: RunRecord) -> list[Place]:
    """The points at the end of a run, from the base on, in order of the dial."""
    base, last = record.curve[0], max(point.step for point in record.curve)
    end = sorted((point for point in record.curve if point.step == last), key=lambda point: point.dial)
    return [(0.0, 0.0), *(place(base, point) for point in end)]


def place(base: CurvePoint, point: CurvePoint) -> Place:
    """Gain and forgetting of a point."""
    assert base.task_nats is not None
    assert point.task_nats is not None
    risen = [point.text_nats[name] - before for name, before in base.text_nats.items()]
    return base.task_nats - point.task_nats, statistics.fmean(risen)


def forgotten_at(places: Sequence[Place], gain: float) -> float | None:
    """What is forgotten where so much is gained: the least, where the curve passes that gain more than once."""
    found = []
    for (low, low_cost), (high, high_cost) in itertools.pairwise(places):
        if min(low, high) <= gain <= max(low, high) and low != high:
            found.append(low_cost + (gain - low) / (high - low) * (high_cost - low_cost))
    return min(found, default=None)


def shown(values: Sequence[float | None]) -> str:
    """Mean and 95 % interval over the seeds."""
    if not values or None in values:
        return f"in {sum(value is not None for value in values)} of {len(values)}"
    known = [value for value in values if value is not None]
    mean = statistics.fmean(known)
    if len(known) < 2:
        return f"{mean:.3f}"
    half = t.ppf(0.975, len(known) - 1) * statistics.stdev(known) / len(known) ** 0.5
    return f"{mean:.3f} ± {half:.3f}"


def table(records: Sequence[RunRecord], reference: str) -> str:
    """One task's table."""
    runs = {(record.label, record.learning_rate, record.seed): record for record in records}
    ends = {seed: dial_of(record)[-1][0] for (label, _, seed), record in runs.items() if label == reference}
    lines = [
        "| method | rate | seeds | gain | forgotten | "
        + " | ".join(f"at {share:.0%} of gain" for share in SHARES)
        + " | s |",
        "|---|---|---|---|---|" + "---|" * (len(SHARES) + 1),
    ]
    for label, rate in dict.fromkeys((label, rate) for label, rate, _ in runs):
        own = {seed: record for (name, other, seed), record in runs.items() if (name, other) == (label, rate)}
        places = {seed: dial_of(record) for seed, record in own.items() if seed in ends}
        cells = [shown([forgotten_at(each, share * ends[seed]) for seed, each in places.items()]) for share in SHARES]
        seconds = [record.cost.training_seconds or 0.0 for record in own.values()]
        gain, cost = ([each[-1][index] for each in places.values()] for index in (0, 1))
        lines.append(
            f"| {label} | {rate:g} | {len(own)} | {shown(gain)} | {shown(cost)} | {' | '.join(cells)} | "
            f"{statistics.fmean(seconds):.0f} |"
        )
    return "\n".join(lines)


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
