"""The score matrix of each label: what became of every task after every other."""

from collections.abc import Sequence

from secura.experiments.comparison.runs.record import RunRecord, SequenceRecord
from secura.report.comparison.exhibit import Absent, Exhibit, HeatMap, Table, TableCell
from secura.report.comparison.runs import GridRuns

_TITLE = "Score matrices"

Cells = list[list[float | None]]


def score_matrices(grid: GridRuns) -> Exhibit | Absent:
    """The exhibit of a grid."""
    panels: list[HeatMap] = []
    tables: list[Table] = []
    falls: list[tuple[float, str, str]] = []
    for model in grid.models:
        for variant in grid.variants:
            records = [record for record in grid.of(model=model, variant=variant) if record.status == "success"]
            by_length: dict[int, list[RunRecord]] = {}
            for record in records:
                if record.sequence is not None:
                    by_length.setdefault(len(record.sequence.tasks), []).append(record)
            for length, repeated in by_length.items():
                sequences = [record.sequence for record in repeated if record.sequence is not None]
                names = _names(sequences)
                cells = _mean(sequences, length)
                where = f"{variant.text}, {model}" if len(grid.models) > 1 else variant.text
                panels.append(_map(where, names, cells))
                tables.append(_table(where, names, cells, [record.name for record in repeated]))
                falls.extend((fall, where, name) for name, fall in _falls(names, cells))
    if not panels:
        return Absent(
            title=_TITLE,
            reason="no run of this grid learned tasks in sequence",
            remedy="kind: sequence",
        )
    return Exhibit(
        key="matrices",
        title=_TITLE,
        sentence=_sentence(falls),
        note=(
            "Each row is a stage, the base model on top; each column a task in the order learned, by its number. "
            "Below the line a task has been learned. Means over seeds and orders; where orders differ, "
            "column i is the i-th task learned, whichever it was. A cross is a score that was not taken."
        ),
        panels=panels,
        tables=tables,
    )


def _names(sequences: Sequence[SequenceRecord]) -> list[str]:
    """Names of the columns: the tasks, or their places where they were learned in several orders."""
    orders = {tuple(each.tasks) for each in sequences}
    first = list(sequences[0].tasks)
    return first if len(orders) == 1 else [f"task {place}" for place in range(1, len(first) + 1)]


def _mean(sequences: Sequence[SequenceRecord], length: int) -> Cells:
    """The mean of each cell; None where any run lacks it."""

    def cell(stage: int, column: int) -> float | None:
        values = [each.scores[stage][column] if stage < len(each.scores) else None for each in sequences]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if len(known) == len(values) else None

    return [[cell(stage, column) for column in range(length)] for stage in range(length + 1)]


def _falls(names: Sequence[str], cells: Cells) -> list[tuple[str, float]]:
    """How far each task has fallen since it was learned; the last one learned has had no time to."""
    return [
        (name, when_learned - last)
        for place, name in enumerate(names[:-1])
        if (when_learned := cells[place + 1][place]) is not None and (last := cells[-1][place]) is not None
    ]


def _sentence(falls: Sequence[tuple[float, str, str]]) -> str:
    if not falls:
        return "Every matrix lacks the scores that a fall is counted from."
    fall, where, name = max(falls)
    if fall <= 0:
        return "No task has fallen since it was learned, by the means."
    by_label: dict[str, list[float]] = {}
    for each, label, _ in falls:
        by_label.setdefault(label, []).append(each)
    means = {label: sum(values) / len(values) for label, values in by_label.items()}
    steady = min(means, key=lambda label: means[label])
    said = f"The farthest fall is that of {name} under {where}: {100 * fall:.1f} points since it was learned"
    if len(means) < 2:
        return f"{said}; the mean over tasks is {_points(means[steady])}."
    worst = max(means, key=lambda label: means[label])
    return (
        f"{said}. The mean over tasks falls least under {steady} ({_points(means[steady])}) "
        f"and most under {worst} ({_points(means[worst])}), by the means alone."
    )


def _points(fall: float) -> str:
    return f"{100 * fall:.1f} points".replace("-", "−")


def _map(title: str, names: Sequence[str], cells: Cells) -> HeatMap:
    stages = ["base", *(str(stage) for stage in range(1, len(cells)))]
    return HeatMap(
        title=title,
        x="task",
        y="tasks learned",
        rows=stages,
        columns=[str(place) for place in range(1, len(names) + 1)],
        cells=cells,
        names=names,
        stairs=[(column + side, column + 0.5) for column in range(len(names)) for side in (-0.5, 0.5)],
    )


def _table(title: str, names: Sequence[str], cells: Cells, runs: Sequence[str]) -> Table:
    def row(stage: int) -> list[TableCell]:
        name = "base" if not stage else f"after {stage}: {names[stage - 1]}"
        values = [
            TableCell(text="missing", state="missing") if value is None else TableCell(text=f"{100 * value:.0f}")
            for value in cells[stage]
        ]
        return [TableCell(text=name, runs=runs if not stage else ()), *values]

    head = ["right answers, %", *(f"{place} {name}" for place, name in enumerate(names, start=1))]
    return Table(caption=title, head=head, rows=[row(stage) for stage in range(len(cells))])
