"""Singular values of the adapted weights before and after: how far their norm moved, and one layer's spectrum."""

import math
import statistics
from collections.abc import Mapping, Sequence

from secura.evaluation.spectra import Spectrum
from secura.experiments.comparison.runs.record import RunRecord
from secura.report.comparison.estimate import Estimate
from secura.report.comparison.exhibit import Absent, Axis, Exhibit, Plot, Point, Series, Table, TableCell
from secura.report.comparison.measure import Measure
from secura.report.comparison.runs import GridRuns, Variant, over_tasks
from secura.report.comparison.saying import each_place, leader_sentence
from secura.report.comparison.style import BASE_STYLE, Style, of_rate

_TITLE = "Singular values of the adapted weights"


def _moved(spectrum: Spectrum) -> float:
    """Change of the norm as a share of what it was."""
    return spectrum.norm_after / spectrum.norm_before - 1 if spectrum.norm_before else math.nan


def _mean_move(record: RunRecord) -> float | None:
    return statistics.fmean(_moved(each) for each in record.spectra) if record.spectra else None


def _mean_distance(record: RunRecord) -> float | None:
    return statistics.fmean(abs(_moved(each)) for each in record.spectra) if record.spectra else None


_MOVE = Measure(key="move", title="mean change of the norm, %", unit="change", of=_mean_move)
_DISTANCE = Measure(
    key="distance", title="size of the change, %", unit="distance", of=_mean_distance, lower_is_better=True, floor=0
)


def spectra(grid: GridRuns, styles: Mapping[str, Style]) -> Exhibit | Absent:
    """The exhibit of a grid."""
    panels: list[Plot] = []
    tables: list[Table] = []
    sentences: dict[str, str] = {}
    for model in grid.models:
        by_variant = {
            variant: found
            for variant in grid.variants
            if (found := [record for record in grid.of(model=model, variant=variant) if _measured(record)])
        }
        if not by_variant:
            continue
        tasks = sorted({record.task for own in by_variant.values() for record in own})
        moves = {variant: found for variant, own in by_variant.items() if (found := over_tasks(own, tasks, _MOVE))}
        layer, label, moved = _farthest(by_variant)
        where = f"{model}: " if len(grid.models) > 1 else ""
        panels.append(_moves_plot(f"{where}change of the norm", moves, styles))
        panels.append(_layer_plot(f"{where}{layer}", layer, grid, by_variant, styles))
        panels.append(_ratio_plot(f"{where}{layer}, what changed", layer, grid, by_variant, styles))
        tables.append(_table(model, by_variant, moves))
        distances = {
            variant.text: found for variant, own in by_variant.items() if (found := over_tasks(own, tasks, _DISTANCE))
        }
        leader = leader_sentence(distances, _DISTANCE, "changes the norm least, whatever the direction")
        sentences[model] = f"{leader} The farthest moved layer is {layer} under {label}, by {_MOVE.text(moved)}."
    if not panels:
        return Absent(
            title=_TITLE,
            reason="no run of this grid holds spectra",
            remedy="measure: [spectra]",
        )
    return Exhibit(
        key="spectra",
        title=_TITLE,
        sentence=each_place(sentences),
        note=(
            "The norm is that of all singular values of a weight, after training relative to before; means over the "
            "adapted layers and the tasks, with 95% intervals over seeds. Beside it the singular values of the layer "
            "that moved farthest, largest first, as means over runs, and how far each has moved; the grey line is the "
            "base model."
        ),
        panels=panels,
        tables=tables,
        legend=[(label, styles[label]) for label in grid.labels] + [("base model", BASE_STYLE)],
    )


def _measured(record: RunRecord) -> bool:
    return record.status == "success" and bool(record.spectra)


def _layers(records: Sequence[RunRecord]) -> dict[str, list[Spectrum]]:
    """Spectra of the runs by layer."""
    found: dict[str, list[Spectrum]] = {}
    for record in records:
        for spectrum in record.spectra:
            found.setdefault(spectrum.layer, []).append(spectrum)
    return found


def _farthest(by_variant: Mapping[Variant, Sequence[RunRecord]]) -> tuple[str, str, float]:
    """The layer, the variant and the mean change of the norm, where that is greatest."""
    moves = [
        (statistics.fmean(_moved(each) for each in found), layer, variant.text)
        for variant, records in by_variant.items()
        for layer, found in _layers(records).items()
    ]
    moved, layer, label = max(moves, key=lambda each: abs(each[0]))
    return layer, label, moved


def _moves_plot(title: str, moves: Mapping[Variant, Estimate], styles: Mapping[str, Style]) -> Plot:
    series = []
    for place, (variant, found) in enumerate(moves.items()):
        ends = None if found.low is None or found.high is None else (100 * found.low, 100 * found.high)
        point = Point(x=100 * found.mean, y=float(place), x_ends=ends, text=f"{variant.text}: {_MOVE.span(found)}")
        series.append(Series(label=variant.text, group=variant.label, style=styles[variant.label], points=[point]))
    return Plot(
        title=title,
        x=Axis(title=_MOVE.title),
        y=Axis(title="", ticks=[variant.text for variant in moves]),
        series=series,
        zero_line="x",
    )


def _layer_plot(
    title: str,
    layer: str,
    grid: GridRuns,
    by_variant: Mapping[Variant, Sequence[RunRecord]],
    styles: Mapping[str, Style],
) -> Plot:
    own = {variant: found for variant, records in by_variant.items() if (found := _layers(records).get(layer))}
    first = next(iter(own.values()))
    series = [_line("base model", "base model", BASE_STYLE, [each.before for each in first])]
    for variant, found in own.items():
        style = of_rate(styles[variant.label], grid.rate_rank(variant))
        series.append(_line(variant.text, variant.label, style, [each.after for each in found]))
    return Plot(title=title, x=Axis(title="rank"), y=Axis(title="singular value", log=True), series=series)


def _ratio_plot(
    title: str,
    layer: str,
    grid: GridRuns,
    by_variant: Mapping[Variant, Sequence[RunRecord]],
    styles: Mapping[str, Style],
) -> Plot:
    """What the singular values themselves hide, since they span decades; relative to the largest of them."""
    series = []
    for variant, records in by_variant.items():
        found = _layers(records).get(layer)
        if not found:
            continue
        moved = [
            [100 * (new - old) / each.before[0] for old, new in zip(each.before, each.after, strict=False)]
            for each in found
        ]
        points = [
            Point(
                x=float(rank),
                y=statistics.fmean(values),
                text=f"{variant.text}, rank {rank}: {statistics.fmean(values):+.2f}%",
            )
            for rank, values in enumerate(zip(*moved, strict=False), start=1)
        ]
        style = of_rate(styles[variant.label], grid.rate_rank(variant))
        line = Series(label=variant.text, group=variant.label, style=style, points=points, joined=True, marked=False)
        series.append(line)
    return Plot(
        title=title,
        x=Axis(title="rank"),
        y=Axis(title="change, % of the largest value before"),
        series=series,
        zero_line="y",
    )


def _line(label: str, group: str, style: Style, spectra_of_runs: Sequence[Sequence[float]]) -> Series:
    points = []
    for rank, values in enumerate(zip(*spectra_of_runs, strict=False), start=1):
        mean = statistics.fmean(values)
        if mean > 0:
            points.append(Point(x=float(rank), y=mean, text=f"{label}, rank {rank}: {mean:.4g}"))
    return Series(label=label, group=group, style=style, points=points, joined=True, marked=False)


def _table(model: str, by_variant: Mapping[Variant, Sequence[RunRecord]], moves: Mapping[Variant, Estimate]) -> Table:
    rows = []
    for variant, records in by_variant.items():
        found = moves.get(variant)
        layers = {
            layer: statistics.fmean(_moved(each) for each in spectra_of_runs)
            for layer, spectra_of_runs in _layers(records).items()
        }
        farthest = max(layers, key=lambda layer: abs(layers[layer]))
        rows.append(
            [
                TableCell(text=variant.text),
                TableCell(text=_MOVE.short(found))
                if found
                else TableCell(text="missing", state="missing", detail="not every task"),
                TableCell(text=_MOVE.text(layers[farthest]), detail=farthest),
                TableCell(text=f"{_MOVE.text(min(layers.values()))} to {_MOVE.text(max(layers.values()))}"),
                TableCell(text=str(len(layers))),
                TableCell(text=str(len(records)), runs=[record.name for record in records]),
            ]
        )
    head = ["label", "change of the norm", "farthest layer", "all layers", "layers", "runs"]
    return Table(caption=model, head=head, rows=rows)
