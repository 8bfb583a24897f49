"""How well each label does on each task: the new task, and the knowledge that was to be kept."""

from collections.abc import Mapping, Sequence

from secura.experiments.comparison.runs.record import RunRecord
from secura.report.comparison.estimate import Estimate, standing
from secura.report.comparison.exhibit import Absent, Exhibit, Table, TableCell
from secura.report.comparison.measure import ACCURACY, KEPT, NEW_TASK_NATS, Measure
from secura.report.comparison.runs import GridRuns, Variant, over_seeds, over_tasks
from secura.report.comparison.saying import each_place, leader_sentence

_TITLE = "Performance"
_REASON_LETTERS = 160


def performance(grid: GridRuns) -> Exhibit | Absent:
    """The exhibit of a grid."""
    tables: list[Table] = []
    sentences: dict[str, str] = {}
    for model in grid.models:
        where = f"{model}: " if len(grid.models) > 1 else ""
        for measure, caption in ((ACCURACY, "right answers on the new task"), (NEW_TASK_NATS, "loss on the new task")):
            tasks = _tasks_with(grid, model, measure)
            if measure is NEW_TASK_NATS:  # where answers can be matched, their share says it
                tasks = [task for task in tasks if task not in _tasks_with(grid, model, ACCURACY)]
            if tasks:
                tables.append(_by_task(f"{where}{caption}, mean ± 95% interval", grid, model, tasks, measure))
                sentences[f"{where}{caption}".capitalize() if not where else f"{where}{caption}"] = _mean_sentence(
                    grid, model, tasks, measure, caption
                )
        kept = _tasks_with(grid, model, KEPT)
        if kept:
            tables.append(_by_task(f"{where}knowledge kept, % of base", grid, model, kept, KEPT))
            sentences[f"{where}knowledge kept" if where else "Knowledge kept"] = _mean_sentence(
                grid, model, kept, KEPT, "knowledge kept"
            )
        families = _by_family(f"{where}knowledge kept by family, % of base", grid, model)
        if families is not None:
            tables.append(families)
    if not tables:
        return Absent(
            title=_TITLE,
            reason="no run of this grid came to an end with a score" if grid.records else "the grid holds no run",
            remedy="",
        )
    return Exhibit(
        key="performance",
        title=_TITLE,
        sentence=each_place(sentences),
        note=(
            "Means over seeds with 95% t intervals. A leader is set in bold where its interval lies apart from every "
            "other's in the column. The last column is the mean over all tasks, for labels that have every task; "
            "its interval is over seeds."
        ),
        tables=tables,
    )


def failure_text(records: Sequence[RunRecord]) -> str:
    """Why runs failed: the reason of the first, shortened."""
    reasons = list(dict.fromkeys(" ".join(record.error.split()) or f"was {record.status}" for record in records))
    first = reasons[0]
    short = first if len(first) <= _REASON_LETTERS else first[: _REASON_LETTERS - 1] + "…"
    return short if len(reasons) == 1 else f"{short} (and {len(reasons) - 1} other reasons)"


def cell_of(records: Sequence[RunRecord], measure: Measure, *, planned: int, best: bool = False) -> TableCell:
    """A table's cell: the mean over runs, or that it is missing or failed and why."""
    failed = [record for record in records if record.status != "success"]
    found = over_seeds(records, measure)
    names = [record.name for record in records]
    if found is None:
        if failed:
            return TableCell(text="failed", state="failed", detail=failure_text(failed), runs=names)
        return TableCell(text="missing", state="missing", runs=names)
    remarks = []
    if failed:
        remarks.append(f"{len(failed)} of {len(records)} failed: {failure_text(failed)}")
    if (absent := planned - len(records)) > 0:
        remarks.append(f"{absent} of {planned} runs missing")
    return TableCell(text=measure.short(found), state="best" if best else "", detail="; ".join(remarks), runs=names)


def leader_of(estimates: Mapping[Variant, Estimate | None], measure: Measure) -> Variant | None:
    """The variant whose interval lies apart from every other's on the better side."""
    by_text = {variant.text: variant for variant in estimates}
    known = {variant.text: found for variant, found in estimates.items() if found is not None}
    found = standing(known, lower_is_better=measure.lower_is_better)
    return by_text[found.best] if found is not None and found.clear else None


def _tasks_with(grid: GridRuns, model: str, measure: Measure) -> list[str]:
    """Tasks of which any run has the number."""
    return [
        task
        for task in grid.tasks(model)
        if any(measure.of(record) is not None for record in grid.of(model=model, task=task))
    ]


def _by_task(caption: str, grid: GridRuns, model: str, tasks: Sequence[str], measure: Measure) -> Table:
    columns = {
        task: {variant: over_seeds(grid.cell(model, variant, task), measure) for variant in grid.variants}
        for task in tasks
    }
    best = {task: leader_of(column, measure) for task, column in columns.items()}
    means = {
        variant: over_tasks([record for task in tasks for record in grid.cell(model, variant, task)], tasks, measure)
        for variant in grid.variants
    }
    best_mean = leader_of(means, measure)
    several = len(tasks) > 1

    def row(variant: Variant) -> list[TableCell]:
        cells = [
            cell_of(
                grid.cell(model, variant, task),
                measure,
                planned=grid.repeats(model, variant, task),
                best=best[task] == variant,
            )
            for task in tasks
        ]
        mean = means[variant]
        if mean is None:
            last = TableCell(text="missing", state="missing", detail="not every task is there")
        else:
            last = TableCell(text=measure.short(mean), state="best" if best_mean == variant else "")
        return [TableCell(text=variant.text), *cells, *([last] if several else [])]

    base = _base_row(grid, model, tasks, measure, several=several)
    head = ["label", *tasks, *([f"mean of {len(tasks)}"] if several else [])]
    return Table(caption=caption, head=head, rows=[*([base] if base else []), *map(row, grid.variants)])


def _base_row(
    grid: GridRuns, model: str, tasks: Sequence[str], measure: Measure, *, several: bool
) -> list[TableCell] | None:
    """The base model's own scores, where runs hold them."""

    def before(record: RunRecord) -> float | None:
        if measure is ACCURACY:
            return record.gain.before / record.gain.asked if record.gain and record.gain.asked else None
        return record.gain_nats[0] if measure is NEW_TASK_NATS else None

    shown = []
    for task in tasks:
        values = [value for record in grid.of(model=model, task=task) if (value := before(record)) is not None]
        shown.append(sum(values) / len(values) if values else None)
    if not any(value is not None for value in shown):
        return None
    known = [value for value in shown if value is not None]
    mean = sum(known) / len(known) if len(known) == len(shown) else None
    return [
        TableCell(text="base model"),
        *(TableCell(text="–") if value is None else TableCell(text=measure.text(value)) for value in shown),
        *([TableCell(text="–") if mean is None else TableCell(text=measure.text(mean))] if several else []),
    ]


def _mean_sentence(grid: GridRuns, model: str, tasks: Sequence[str], measure: Measure, what: str) -> str:
    means = {
        variant.text: found
        for variant in grid.variants
        if (
            found := over_tasks(
                [record for task in tasks for record in grid.cell(model, variant, task)], tasks, measure
            )
        )
    }
    claim = "does best" + (f" over {len(tasks)} tasks" if len(tasks) > 1 else "")
    return leader_sentence(means, measure, claim) or f"No label has {what} on all {len(tasks)} tasks."


def _by_family(caption: str, grid: GridRuns, model: str) -> Table | None:
    """Knowledge kept by family, all tasks and seeds of a variant together."""
    families = sorted({family for record in grid.of(model=model) for family in record.knowledge})
    if len(families) < 2:
        return None
    rows = []
    for variant in grid.variants:
        own = [record for record in grid.of(model=model, variant=variant) if record.status == "success"]
        if own:
            cells = [cell_of(own, _kept_of(family), planned=0) for family in families]
            rows.append(
                [TableCell(text=variant.text), *(TableCell(text=cell.text, state=cell.state) for cell in cells)]
            )
    return Table(caption=caption, head=["label", *families], rows=rows, folded=True)


def _kept_of(family: str) -> Measure:
    def kept(record: RunRecord) -> float | None:
        tally = record.knowledge.get(family)
        return tally.kept if tally else None

    def one(record: RunRecord) -> float:
        tally = record.knowledge.get(family)
        return 1 / tally.before if tally and tally.before else 0.0

    return Measure(key=family, title=family, unit="percent", of=kept, step=one, floor=0, ceiling=1)
