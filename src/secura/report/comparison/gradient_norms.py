"""Norms of the gradient over training: median and spread of the runs of each label."""

import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from secura.experiments.comparison.runs.record import RunRecord
from secura.report.comparison.estimate import Estimate
from secura.report.comparison.exhibit import Absent, Axis, Exhibit, Plot, Point, Series, Table, TableCell
from secura.report.comparison.measure import Measure
from secura.report.comparison.runs import GridRuns, Variant, over_tasks
from secura.report.comparison.saying import each_place, leader_sentence
from secura.report.comparison.style import Style, of_rate

_TITLE = "Gradient norms over training"
_MOST_POINTS = 160
"""Points of a line; more would be closer together than a pixel on a phone."""
_MOST_PANELS = 9
"""Where there are more models and tasks than that, the tasks of a model share a panel."""


def _log_median(record: RunRecord) -> float | None:
    """Logarithm of the median over the steps: norms differ by factors."""
    norms = [norm for _, norm in record.gradient_norms if norm > 0]
    return math.log(statistics.median(norms)) if norms else None


_NORM = Measure(key="norm", title="median norm of the gradient", unit="factor", of=_log_median, lower_is_better=True)


def gradient_norms(grid: GridRuns, styles: Mapping[str, Style]) -> Exhibit | Absent:
    """The exhibit of a grid."""
    measured = [record for record in grid.done if record.gradient_norms]
    if not measured:
        return Absent(
            title=_TITLE,
            reason="no run of this grid holds the norms of its gradients",
            remedy="measure: [gradient_norms]",
        )
    places = sorted({(record.model, record.task) for record in measured})
    if len(places) > _MOST_PANELS:
        places = sorted({(record.model, "") for record in measured})
    panels: list[Plot] = []
    rows: list[list[TableCell]] = []
    sentences: dict[str, str] = {}
    for model, task in places:
        own = [record for record in measured if record.model == model and task in ("", record.task)]
        by_variant: dict[Variant, list[RunRecord]] = {
            variant: found
            for variant in grid.variants
            if (found := [record for record in own if grid.variant(record) == variant])
        }
        title = ", ".join(part for part in (model if len(grid.models) > 1 or not task else "", task) if part)
        panels.append(_plot(title, grid, by_variant, styles))
        tasks = sorted({record.task for record in own})
        medians = {variant: over_tasks(found, tasks, _NORM) for variant, found in by_variant.items()}
        rows.extend(_row(title, variant, found, medians[variant]) for variant, found in by_variant.items())
        known = {variant.text: found for variant, found in medians.items() if found is not None}
        sentences[title] = leader_sentence(known, _NORM, "has the smallest gradients")
    return Exhibit(
        key="gradients",
        title=_TITLE,
        sentence=each_place(sentences),
        note=(
            "Norm of the gradient before clipping, on a logarithmic axis: lines are medians over runs, bands reach "
            "from the 10th to the 90th percentile. Norms of methods with other trainable weights are of other spaces: "
            "a smaller norm alone is not better. If a label has several rates, the lowest is drawn as a solid line."
        ),
        panels=panels,
        tables=[
            Table(
                caption="Norm of the gradient",
                head=["label", "where", "median over the steps", "10th to 90th percentile of all steps", "runs"],
                rows=rows,
            )
        ],
        legend=[(label, styles[label]) for label in grid.labels],
    )


def _plot(
    title: str, grid: GridRuns, by_variant: Mapping[Variant, Sequence[RunRecord]], styles: Mapping[str, Style]
) -> Plot:
    last = max(record.gradient_norms[-1][0] for records in by_variant.values() for record in records)
    width = max(1, math.ceil(last / _MOST_POINTS))
    series = []
    for variant, records in by_variant.items():
        binned: dict[int, list[float]] = {}
        for record in records:
            for step, norm in record.gradient_norms:
                if norm > 0 and math.isfinite(norm):
                    binned.setdefault(step // width, []).append(norm)
        points = []
        for place, norms in sorted(binned.items()):
            low, middle, high = (float(each) for each in np.quantile(norms, (0.1, 0.5, 0.9)))
            step = place * width + (width - 1) / 2
            text = f"{variant.text}, step {step:g}: {middle:.3g} ({low:.3g} to {high:.3g})"
            points.append(Point(x=step, y=middle, y_ends=(low, high), text=text))
        style = of_rate(styles[variant.label], grid.rate_rank(variant))
        line = Series(
            label=variant.text,
            group=variant.label,
            style=style,
            points=points,
            joined=True,
            marked=False,
            band=True,
        )
        series.append(line)
    return Plot(title=title, x=Axis(title="step"), y=Axis(title="norm of the gradient", log=True), series=series)


def _row(where: str, variant: Variant, records: Sequence[RunRecord], found: Estimate | None) -> list[TableCell]:
    low, high = np.quantile([norm for record in records for _, norm in record.gradient_norms], (0.1, 0.9))
    return [
        TableCell(text=variant.text),
        TableCell(text=where),
        TableCell(text="missing", state="missing") if found is None else TableCell(text=_NORM.short(found)),
        TableCell(text=f"{low:.3g} to {high:.3g}"),
        TableCell(text=str(len(records)), runs=[record.name for record in records]),
    ]
