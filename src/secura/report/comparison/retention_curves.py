"""What became of knowledge, and of the tasks learned, after each task of a sequence."""

from collections.abc import Callable, Mapping, Sequence

from secura.evaluation.retention_metrics import PerTask, ScoreMatrix, average_accuracy, backward_transfer
from secura.experiments.comparison.runs.record import RunRecord, SequenceRecord
from secura.report.comparison.estimate import Estimate, estimate
from secura.report.comparison.exhibit import Absent, Axis, Exhibit, Plot, Point, Series, Table, TableCell
from secura.report.comparison.measure import KEPT, Measure
from secura.report.comparison.runs import GridRuns, Variant
from secura.report.comparison.saying import each_place, leader_sentence
from secura.report.comparison.style import Style, of_rate

_TITLE = "Retention over the sequence"

Number = Callable[[SequenceRecord, int], float | None]
"""A number of a sequence after so many tasks."""


def _mean_of(number: Callable[[ScoreMatrix], PerTask]) -> Callable[[RunRecord], float | None]:
    """A number of the score matrix, averaged over its tasks."""

    def of(record: RunRecord) -> float | None:
        sequence = record.sequence
        if sequence is None:
            return None
        return number(ScoreMatrix(tasks=tuple(sequence.tasks), scores=tuple(map(tuple, sequence.scores)))).mean

    return of


def _known_at_the_end(record: RunRecord) -> float | None:
    return record.sequence.knowledge[-1] if record.sequence else None


_LEARNED = Measure(
    key="learned", title="average accuracy", unit="percent", of=_mean_of(average_accuracy), floor=0, ceiling=1
)
_TRANSFER = Measure(
    key="transfer", title="backward transfer", unit="points", of=_mean_of(backward_transfer), floor=-1, ceiling=1
)
_KNOWN = Measure(key="known", title="knowledge at the end", unit="percent", of=_known_at_the_end, floor=0, ceiling=1)


def retention_curves(grid: GridRuns, styles: Mapping[str, Style]) -> Exhibit | Absent:
    """The exhibit of a grid."""
    panels: list[Plot] = []
    tables: list[Table] = []
    sentences: dict[str, str] = {}
    for model in grid.models:
        sequences = {
            variant: [record for record in grid.of(model=model, variant=variant) if _whole(record)]
            for variant in grid.variants
        }
        sequences = {variant: records for variant, records in sequences.items() if records}
        if not sequences:
            continue
        tasks = max(len(record.sequence.tasks) for found in sequences.values() for record in found if record.sequence)
        where = f"{model}: " if len(grid.models) > 1 else ""
        panels.append(_plot(f"{where}knowledge", "right answers on knowledge, %", grid, sequences, styles, _knowledge))
        panels.append(_plot(f"{where}tasks learned so far", "mean score, %", grid, sequences, styles, _learned_so_far))
        tables.append(_table(f"{model}, after {tasks} tasks", sequences))
        kept = {
            variant.text: found
            for variant, records in sequences.items()
            if (found := _over_runs(records, KEPT)) is not None
        }
        claim = f"keeps most of the base model's knowledge over {tasks} tasks"
        sentences[model] = leader_sentence(kept, KEPT, claim)
    if not panels:
        return Absent(
            title=_TITLE,
            reason="no run of this grid learned tasks in sequence",
            remedy="kind: sequence",
        )
    return Exhibit(
        key="retention",
        title=_TITLE,
        sentence=each_place(sentences),
        note=(
            "Stage 0 is the base model, stage t the model after t tasks. Lines are means over seeds and orders, bands "
            "their 95% intervals. The second plot is the mean score of the tasks learned up to each stage."
        ),
        panels=panels,
        tables=tables,
        legend=[(label, styles[label]) for label in grid.labels],
    )


def _whole(record: RunRecord) -> bool:
    return record.status == "success" and record.sequence is not None


def _knowledge(sequence: SequenceRecord, stage: int) -> float | None:
    return sequence.knowledge[stage] if stage < len(sequence.knowledge) else None


def _learned_so_far(sequence: SequenceRecord, stage: int) -> float | None:
    if not 0 < stage < len(sequence.scores):
        return None
    scores = sequence.scores[stage][:stage]
    known = [score for score in scores if score is not None]
    return sum(known) / len(known) if len(known) == stage else None


def _plot(
    title: str,
    y_title: str,
    grid: GridRuns,
    sequences: Mapping[Variant, Sequence[RunRecord]],
    styles: Mapping[str, Style],
    number: Number,
) -> Plot:
    series = []
    for variant, records in sequences.items():
        learned = [record.sequence for record in records if record.sequence is not None]
        points = []
        for stage in range(max(len(each.tasks) for each in learned) + 1):
            values = [value for each in learned if (value := number(each, stage)) is not None]
            found = estimate(values, floor=0, ceiling=1) if len(values) == len(learned) else None
            if found is None:
                continue
            ends = None if found.low is None or found.high is None else (100 * found.low, 100 * found.high)
            text = f"{variant.text}, after {stage} tasks: {_KNOWN.span(found)}"
            points.append(Point(x=float(stage), y=100 * found.mean, y_ends=ends, text=text))
        if points:
            style = of_rate(styles[variant.label], grid.rate_rank(variant))
            line = Series(label=variant.text, group=variant.label, style=style, points=points, joined=True, band=True)
            series.append(line)
    last = max(len(record.sequence.tasks) for records in sequences.values() for record in records if record.sequence)
    marks = [(float(stage), str(stage)) for stage in range(0, last + 1, 1 + last // 10)]
    return Plot(title=title, x=Axis(title="tasks learned", marks=marks), y=Axis(title=y_title), series=series)


def _over_runs(records: Sequence[RunRecord], measure: Measure) -> Estimate | None:
    values = [measure.of(record) for record in records]
    whole = [value for value in values if value is not None]
    return estimate(whole, floor=measure.floor, ceiling=measure.ceiling) if len(whole) == len(values) else None


def _table(caption: str, sequences: Mapping[Variant, Sequence[RunRecord]]) -> Table:
    def cell(records: Sequence[RunRecord], measure: Measure) -> TableCell:
        found = _over_runs(records, measure)
        return TableCell(text="missing", state="missing") if found is None else TableCell(text=measure.short(found))

    rows = [
        [
            TableCell(text=variant.text),
            cell(records, KEPT),
            cell(records, _KNOWN),
            cell(records, _LEARNED),
            cell(records, _TRANSFER),
            TableCell(text=str(len(records)), runs=[record.name for record in records]),
        ]
        for variant, records in sequences.items()
    ]
    head = [
        *("label", "knowledge kept", "knowledge at the end", "average accuracy"),
        *("backward transfer, points", "runs"),
    ]
    return Table(caption=caption, head=head, rows=rows)
