"""What harsh learning rates do: knowledge kept, and what was learned, at each rate."""

from collections.abc import Mapping, Sequence

from secura.report.comparison.exhibit import Absent, Axis, Exhibit, Plot, Point, Series, Table, TableCell
from secura.report.comparison.measure import ACCURACY, KEPT, Measure
from secura.report.comparison.performance import cell_of, leader_of
from secura.report.comparison.runs import GridRuns, Variant, over_tasks, rate_text
from secura.report.comparison.saying import each_place, leader_sentence
from secura.report.comparison.style import Style

_TITLE = "Knowledge kept at each learning rate"
_ASIDE = 1.03


def learning_rates(grid: GridRuns, styles: Mapping[str, Style]) -> Exhibit | Absent:
    """The exhibit of a grid."""
    swept = [variant for variant in grid.variants if variant.rate is not None]
    panels: list[Plot] = []
    tables: list[Table] = []
    sentences: dict[str, str] = {}
    for model in grid.models:
        tasks = grid.tasks(model)
        for measure in (KEPT, ACCURACY):
            where = f"{model}: " if len(grid.models) > 1 else ""
            if any(over_tasks(grid.of(model=model, variant=each), tasks, measure) for each in swept):
                panels.append(_plot(f"{where}{measure.title}", grid, model, tasks, swept, measure, styles))
                tables.append(_table(f"{where}{measure.title}", grid, model, tasks, swept, measure))
        sentences[model] = _sentence(grid, model, tasks, swept)
    if not panels:
        return Absent(
            title=_TITLE,
            reason="no label of this grid was tried at several learning rates",
            remedy="learning_rates: [1e-3, 1e-2]",
        )
    return Exhibit(
        key="rates",
        title=_TITLE,
        sentence=each_place(sentences),
        note=(
            "Means over the tasks of the grid with 95% intervals over seeds, learning rates on a logarithmic axis, "
            "labels a little beside each other. "
            "Methods differ in which rates are harsh: read how much was kept beside how much was learned."
        ),
        panels=panels,
        tables=tables,
        legend=[(label, styles[label]) for label in grid.labels if label in grid.swept],
    )


def _plot(
    title: str,
    grid: GridRuns,
    model: str,
    tasks: Sequence[str],
    swept: Sequence[Variant],
    measure: Measure,
    styles: Mapping[str, Style],
) -> Plot:
    series = []
    labels = list(dict.fromkeys(variant.label for variant in swept))
    rates = sorted({variant.rate for variant in swept if variant.rate is not None})
    for place, label in enumerate(labels):
        # Side by side by a few percent, so that no interval lies under another.
        aside = _ASIDE ** (place - (len(labels) - 1) / 2)
        points = []
        for variant in swept:
            found = over_tasks(grid.of(model=model, variant=variant), tasks, measure)
            if variant.label != label or variant.rate is None or found is None:
                continue
            ends = None if found.low is None or found.high is None else (100 * found.low, 100 * found.high)
            text = f"{variant.text}: {measure.span(found)}"
            points.append(Point(x=variant.rate * aside, y=100 * found.mean, y_ends=ends, text=text))
        if points:
            series.append(Series(label=label, group=label, style=styles[label], points=points, joined=True))
    return Plot(
        title=title,
        x=Axis(title="learning rate", log=True, marks=[(rate, rate_text(rate)) for rate in rates]),
        y=Axis(title=measure.title),
        series=series,
    )


def _table(
    caption: str, grid: GridRuns, model: str, tasks: Sequence[str], swept: Sequence[Variant], measure: Measure
) -> Table:
    rates = sorted({variant.rate for variant in swept if variant.rate is not None})
    found = {
        rate: {
            each: over_tasks(grid.of(model=model, variant=each), tasks, measure) for each in swept if each.rate == rate
        }
        for rate in rates
    }
    best = {rate: leader_of(column, measure) for rate, column in found.items()}

    def cell(label: str, rate: float) -> TableCell:
        variant = Variant(label=label, rate=rate)
        if variant not in swept:
            return TableCell(text="not tried", state="missing")
        records = grid.of(model=model, variant=variant)
        if len(tasks) == 1:
            return cell_of(records, measure, planned=grid.repeats(model, variant, tasks[0]), best=best[rate] == variant)
        mean = found[rate][variant]
        if mean is None:
            return cell_of([record for record in records if record.status != "success"], measure, planned=0)
        names = [record.name for record in records]
        return TableCell(text=measure.short(mean), state="best" if best[rate] == variant else "", runs=names)

    labels = dict.fromkeys(variant.label for variant in swept)
    rows = [[TableCell(text=label), *(cell(label, rate) for rate in rates)] for label in labels]
    return Table(caption=caption, head=["label", *map(rate_text, rates)], rows=rows)


def _sentence(grid: GridRuns, model: str, tasks: Sequence[str], swept: Sequence[Variant]) -> str:
    """The leader at the highest rate that at least two labels were tried at."""
    by_rate: dict[float, list[Variant]] = {}
    for variant in swept:
        if variant.rate is not None:
            by_rate.setdefault(variant.rate, []).append(variant)
    shared = [rate for rate, tried in by_rate.items() if len(tried) > 1]
    if not shared:
        return "No two labels were tried at the same rate, so none can be compared at one."
    harshest = max(shared)
    records = {variant: grid.of(model=model, variant=variant) for variant in by_rate[harshest]}
    kept = {variant.label: found for variant, own in records.items() if (found := over_tasks(own, tasks, KEPT))}
    failed = [variant.label for variant, own in records.items() if own and all(r.status != "success" for r in own)]
    gone = f" All runs of {', '.join(failed)} failed there." if failed else ""
    if not kept:
        return f"At {rate_text(harshest)}, the harshest rate, no label has a number.{gone}"
    return f"At {rate_text(harshest)}, the harshest rate: {leader_sentence(kept, KEPT, 'keeps most knowledge')}{gone}"
