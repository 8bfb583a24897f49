"""The runs of one grid, sorted into what repeats what.

A label may be tried at several learning rates on the same task and seed; each rate is then a
variant of its own, since a mean over rates would be the mean of different things. Runs of the
same variant, model and task that differ by seed, or by the order of a sequence, repeat each other.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from secura.experiments.comparison.runs.record import RunRecord
from secura.report.comparison.estimate import Estimate, estimate
from secura.report.comparison.measure import Measure

Replicate = tuple[int, tuple[str, ...]]
"""Seed, and the order of tasks where a sequence was learned."""


@dataclass(frozen=True, kw_only=True, order=True)
class Variant:
    """What is compared: a label, at one of its learning rates where it was tried at several."""

    label: str
    """The method as the grid calls it."""
    rate: float | None
    """The learning rate; None where the label has one for each task."""

    @property
    def text(self) -> str:
        """Its name in tables and sentences."""
        return self.label if self.rate is None else f"{self.label} at {rate_text(self.rate)}"


def rate_text(rate: float) -> str:
    """A learning rate as people write it: 3e-4, 0.1."""
    mantissa, mark, exponent = f"{rate:.2e}".partition("e")
    return f"{rate:g}" if rate >= 0.1 else f"{float(mantissa):g}{mark}{int(exponent)}"


def replicate(record: RunRecord) -> Replicate:
    """What tells a run from others that repeat it."""
    return record.seed, tuple(record.sequence.tasks) if record.sequence else ()


def newest_of_each_cell(records: Iterable[RunRecord]) -> list[RunRecord]:
    """The newest run of each cell, for folders that still hold runs of an older configuration."""
    cells: dict[tuple[object, ...], RunRecord] = {}
    for record in records:
        order = record.settings.get("order_seed")
        key = (record.grid, record.label, record.model, record.task, record.learning_rate, order, record.seed)
        if key not in cells or record.created_at >= cells[key].created_at:
            cells[key] = record
    return list(cells.values())


@dataclass(frozen=True, kw_only=True, order=True)
class Missing:
    """A run that was planned and has no record."""

    label: str
    """Its method, as the grid calls it."""
    model: str
    """Its base model."""
    task: str
    """What it was to learn."""
    seed: int
    """Its seed."""
    learning_rate: float | None
    """Its learning rate."""


@dataclass(frozen=True, kw_only=True)
class GridRuns:
    """The runs of one grid."""

    name: str
    """Name of the grid."""
    records: Sequence[RunRecord]
    """One for each cell that was carried out, however it ended."""
    missing: Sequence[Missing] = ()
    """Cells that were planned and not carried out, as far as the folder holds a plan."""

    @cached_property
    def done(self) -> list[RunRecord]:
        """Runs that came to an end."""
        return [record for record in self.records if record.status == "success"]

    @cached_property
    def failed(self) -> list[RunRecord]:
        """Runs that did not."""
        return [record for record in self.records if record.status != "success"]

    @cached_property
    def labels(self) -> list[str]:
        """What is compared, by name."""
        return sorted({each.label for each in (*self.records, *self.missing)}, key=str.casefold)

    @cached_property
    def models(self) -> list[str]:
        """Base models, by name."""
        return sorted({each.model for each in (*self.records, *self.missing)})

    @cached_property
    def seeds(self) -> list[int]:
        """Seeds, in order."""
        return sorted({each.seed for each in (*self.records, *self.missing)})

    def tasks(self, model: str) -> list[str]:
        """Tasks of a model, by name."""
        return sorted({each.task for each in (*self.records, *self.missing) if each.model == model})

    @cached_property
    def swept(self) -> set[str]:
        """Labels that were tried at several learning rates on the same task."""
        rates: dict[tuple[str, str, str], set[float | None]] = {}
        for each in (*self.records, *self.missing):
            rates.setdefault((each.label, each.model, each.task), set()).add(each.learning_rate)
        return {label for (label, _, _), tried in rates.items() if len(tried) > 1}

    def variant(self, record: RunRecord | Missing) -> Variant:
        """Which variant a run is of."""
        return Variant(label=record.label, rate=record.learning_rate if record.label in self.swept else None)

    @cached_property
    def variants(self) -> list[Variant]:
        """All of them, a label's by rising rate."""
        found = {self.variant(each) for each in (*self.records, *self.missing)}
        return sorted(found, key=lambda each: (each.label.casefold(), each.rate or 0.0))

    def rate_rank(self, variant: Variant) -> int:
        """The place of a variant's learning rate among those of its label, from 0."""
        return [each for each in self.variants if each.label == variant.label].index(variant)

    def of(
        self, *, model: str | None = None, variant: Variant | None = None, task: str | None = None
    ) -> list[RunRecord]:
        """Runs by model, variant and task, where these are given."""
        return [
            record
            for record in self.records
            if model in (None, record.model)
            and task in (None, record.task)
            and (variant is None or self.variant(record) == variant)
        ]

    @cached_property
    def by_cell(self) -> Mapping[tuple[str, Variant, str], list[RunRecord]]:
        """Runs that repeat each other, by model, variant and task."""
        cells: dict[tuple[str, Variant, str], list[RunRecord]] = {}
        for record in self.records:
            cells.setdefault((record.model, self.variant(record), record.task), []).append(record)
        return cells

    def cell(self, model: str, variant: Variant, task: str) -> list[RunRecord]:
        """Runs of one cell of the table, failed ones included."""
        return list(self.by_cell.get((model, variant, task), ()))

    def repeats(self, model: str, variant: Variant, task: str) -> int:
        """How many runs were planned for one cell of the table; as many as there are where nothing was planned."""
        place = (model, variant, task)
        absent = sum((each.model, self.variant(each), each.task) == place for each in self.missing)
        return len(self.by_cell.get(place, ())) + absent


def over_seeds(records: Iterable[RunRecord], measure: Measure) -> Estimate | None:
    """A measure of runs that repeat each other; None where none of them has it."""
    done = [record for record in records if record.status == "success"]
    values = [value for record in done if (value := measure.of(record)) is not None]
    step = max((measure.step(record) for record in done), default=0.0)
    return estimate(values, floor=measure.floor, ceiling=measure.ceiling, step=step)


def over_tasks(records: Iterable[RunRecord], tasks: Sequence[str], measure: Measure) -> Estimate | None:
    """The mean over tasks with its interval over seeds that have a number for every task; None without such a seed.

    A mean over the tasks that happen to be there would be another number for each seed, so
    a seed that lacks one is left out.
    """
    values: dict[Replicate, dict[str, float]] = {}
    steps: dict[str, float] = {}
    for record in records:
        value = measure.of(record) if record.status == "success" else None
        if value is not None:
            values.setdefault(replicate(record), {})[record.task] = value
            steps[record.task] = max(steps.get(record.task, 0.0), measure.step(record))
    whole = [found for found in values.values() if tasks and all(task in found for task in tasks)]
    return estimate(
        [math.fsum(found[task] for task in tasks) / len(tasks) for found in whole],
        floor=measure.floor,
        ceiling=measure.ceiling,
        # The rounding of each task is its own, so that of their mean is the root of the squares.
        step=math.hypot(*(steps[task] for task in tasks)) / len(tasks) if whole else 0.0,
    )
