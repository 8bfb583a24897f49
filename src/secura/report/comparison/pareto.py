"""Gain against forgetting: each label as a point with its intervals, and the Pareto front of the means.

A gain in points, a gain in nats, and the gain of a whole sequence are different numbers, and so
are knowledge kept and forgetting in nats: each pair of axes has a panel of its own.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from secura.experiments.comparison.runs.record import RunRecord
from secura.report.comparison.estimate import Estimate
from secura.report.comparison.exhibit import Absent, Axis, Exhibit, Plot, Point, Series, Table, TableCell
from secura.report.comparison.measure import (
    ACCURACY,
    FORGETTING,
    GAIN,
    GAIN_NATS,
    KEPT,
    SEQUENCE_GAIN,
    Measure,
)
from secura.report.comparison.runs import GridRuns, Variant, over_tasks
from secura.report.comparison.saying import each_place, leader_sentence
from secura.report.comparison.style import BASE_STYLE, Style
from secura.report.wording import listed

_TITLE = "Gain against forgetting"
_PAIRS = ((KEPT, GAIN), (KEPT, GAIN_NATS), (KEPT, SEQUENCE_GAIN), (FORGETTING, ACCURACY))
"""Horizontal and vertical axis of each panel."""


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A variant with its two numbers."""

    variant: Variant
    """What is placed."""
    x: Estimate
    """Of the horizontal axis."""
    y: Estimate
    """Of the vertical axis."""
    runs: Sequence[str]
    """Names of its runs."""


def pareto(grid: GridRuns, styles: Mapping[str, Style]) -> Exhibit | Absent:
    """The exhibit of a grid."""
    panels: list[Plot] = []
    tables: list[Table] = []
    sentences: dict[str, str] = {}
    for model in grid.models:
        for across, up in _PAIRS:
            tasks = _tasks_with(grid, model, across, up)
            if not tasks:
                continue
            placed, incomplete = _place(grid, model, tasks, across, up)
            front = pareto_front(placed, across, up)
            where = f"{model}, {_over(tasks)}"
            panels.append(_plot(where, placed, front, across, up, styles))
            tables.append(_table(where, placed, front, incomplete, across, up))
            what = up.title.split(",")[0]
            panel = f"{model}, {what}" if len(grid.models) > 1 else what.capitalize()
            sentences[panel] = _sentence(placed, front, incomplete, across, up)
    if not panels:
        return Absent(
            title=_TITLE,
            reason="no run holds both a gain and a number of what was forgotten",
            remedy="base: {data.test_rows: 200, retention.path: FILE}",
        )
    return Exhibit(
        key="pareto",
        title=_TITLE,
        sentence=each_place(sentences),
        note=(
            "Further up learned more, further to the right kept more; of forgetting in nats less is better, so its "
            "axis is turned around. Bars are 95% intervals over seeds. The dotted line is the Pareto front of the "
            "means: nothing else has a better mean on both axes. Points of a label at several learning rates are "
            "joined by rising rate."
        ),
        panels=panels,
        tables=tables,
        legend=[(label, styles[label]) for label in grid.labels],
    )


def published(records: Sequence[RunRecord], styles: Mapping[str, Style]) -> Exhibit | None:
    """PEFT's published results, with those of our runs that have the same two numbers; None without any of PEFT's."""
    both = [
        record
        for record in records
        if record.status == "success" and ACCURACY.of(record) is not None and FORGETTING.of(record) is not None
    ]
    foreign = [record for record in both if record.source == "peft"]
    if not foreign:
        return None
    own = [record for record in both if record.source != "peft"]
    ours, where_ours = _placed_all_tasks(own)
    # There are no forty colours for forty experiments: PEFT's are grey, and those on the front are named.
    drawn = dict.fromkeys((record.label for record in foreign), BASE_STYLE) | dict(styles)
    panels: list[Plot] = []
    tables: list[Table] = []
    sentences: list[str] = []
    for model, task in sorted({(record.model, record.task) for record in foreign}):
        grid = GridRuns(name="", records=[each for each in foreign if (each.model, each.task) == (model, task)])
        theirs, _ = _place(grid, model, [task], FORGETTING, ACCURACY)
        front = pareto_front(theirs, FORGETTING, ACCURACY)
        where = f"PEFT: {model}, {task}" + (f"; ours: {where_ours}" if ours else "")
        panels.append(_plot(where, [*theirs, *ours], front, FORGETTING, ACCURACY, drawn, name_front=True))
        tables.append(_table(where, [*theirs, *ours], front, [], FORGETTING, ACCURACY))
        names = [each.variant.text for each in front]
        sentences.append(f"Of {len(theirs)} published results on {model}, {listed(names)} are on the front.")
    apart = (
        " The axes mean the same for theirs and ours; models, tasks and texts differ, so compare theirs with theirs "
        "and ours with ours."
        if ours
        else ""
    )
    return Exhibit(
        key="published",
        title="Published points of PEFT's method comparison",
        sentence=" ".join(sentences) + ("" if ours else " None of our runs has the same two numbers."),
        note=(
            "Accuracy on the new task against PEFT's forgetting number, the rise of the mean cross-entropy on a fixed "
            "text. Further up and to the right is better. The dotted line is the front of PEFT's points, which are "
            f"single runs and have no interval.{apart}"
        ),
        panels=panels,
        tables=tables,
        legend=[(label, styles[label]) for label in dict.fromkeys(each.variant.label for each in ours)],
    )


def _placed_all_tasks(records: Sequence[RunRecord]) -> tuple[list[Placed], str]:
    """Our labels as means over the tasks that every one of them has, and what these are of."""
    grid = GridRuns(name="", records=records)
    placed: list[Placed] = []
    where: list[str] = []
    for model in grid.models:
        tasks = _tasks_with(grid, model, FORGETTING, ACCURACY)
        placed += _place(grid, model, tasks, FORGETTING, ACCURACY)[0]
        where.append(f"{model}, {_over(tasks)}")
    return placed, listed(where) if where else ""


def pareto_front(placed: Iterable[Placed], across: Measure, up: Measure) -> list[Placed]:
    """What nothing else matches on both means and betters on one, from the least x to the greatest."""

    def goodness(each: Placed) -> tuple[float, float]:
        return (
            -each.x.mean if across.lower_is_better else each.x.mean,
            -each.y.mean if up.lower_is_better else each.y.mean,
        )

    front: list[Placed] = []
    best_up = float("-inf")
    for each in sorted(placed, key=goodness, reverse=True):
        if goodness(each)[1] > best_up:
            front.append(each)
            best_up = goodness(each)[1]
    return sorted(front, key=lambda each: each.x.mean)


def _tasks_with(grid: GridRuns, model: str, across: Measure, up: Measure) -> list[str]:
    """Tasks of which at least one run has both numbers."""
    return [
        task
        for task in grid.tasks(model)
        if any(
            across.of(record) is not None
            and up.of(record) is not None
            # Where answers can be matched, their share says what was learned.
            and (up is not GAIN_NATS or GAIN.of(record) is None)
            for record in grid.of(model=model, task=task)
            if record.status == "success"
        )
    ]


def _place(
    grid: GridRuns, model: str, tasks: Sequence[str], across: Measure, up: Measure
) -> tuple[list[Placed], list[tuple[Variant, int]]]:
    """Variants with both numbers on every task; and the others, with how many tasks they have."""
    placed: list[Placed] = []
    incomplete: list[tuple[Variant, int]] = []
    for variant in grid.variants:
        records = [record for task in tasks for record in grid.cell(model, variant, task)]
        whole = [record for record in records if across.of(record) is not None and up.of(record) is not None]
        x, y = over_tasks(whole, tasks, across), over_tasks(whole, tasks, up)
        if x is None or y is None:
            if records:
                incomplete.append((variant, len({record.task for record in whole if record.status == "success"})))
            continue
        placed.append(Placed(variant=variant, x=x, y=y, runs=[record.name for record in whole]))
    return placed, incomplete


def _plot(
    title: str,
    placed: Sequence[Placed],
    front: Sequence[Placed],
    across: Measure,
    up: Measure,
    styles: Mapping[str, Style],
    *,
    name_front: bool = False,
) -> Plot:
    def point(each: Placed) -> Point:
        return Point(
            x=across.scale * each.x.mean,
            y=up.scale * each.y.mean,
            x_ends=_ends(each.x, across.scale),
            y_ends=_ends(each.y, up.scale),
            text=f"{each.variant.text}: {up.span(each.y)}; {across.span(each.x)}",
        )

    labels = dict.fromkeys(each.variant.label for each in placed)
    on_front = {each.variant.label for each in front}
    series = [
        Series(
            label=label,
            group=label,
            style=styles[label],
            points=[point(each) for each in placed if each.variant.label == label],
            joined=True,
            named=label.split("/")[0] if name_front and label in on_front and styles[label] == BASE_STYLE else "",
            faint=name_front and label not in on_front and styles[label] == BASE_STYLE,
        )
        for label in labels
    ]
    return Plot(
        title=title,
        x=Axis(
            title=across.title + (", less to the right" if across.lower_is_better else ""),
            turned=across.lower_is_better,
        ),
        y=Axis(title=up.title),
        series=series,
        front=_corners([(across.scale * each.x.mean, up.scale * each.y.mean) for each in front]),
    )


def _ends(found: Estimate, scale: float) -> tuple[float, float] | None:
    if found.low is None or found.high is None:
        return None
    return scale * found.low, scale * found.high


def _corners(front: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The line around all that the front is at least as good as, from its highest point on."""
    if len(front) < 2:
        return []
    corners = [max(front, key=lambda each: each[1])]
    for x, y in sorted(front, key=lambda each: -each[1])[1:]:
        corners += [(corners[-1][0], y), (x, y)]
    return corners


def _table(
    title: str,
    placed: Sequence[Placed],
    front: Sequence[Placed],
    incomplete: Sequence[tuple[Variant, int]],
    across: Measure,
    up: Measure,
) -> Table:
    best_first = sorted(placed, key=lambda each: -each.y.mean if not up.lower_is_better else each.y.mean)
    rows = [
        [
            TableCell(text=each.variant.text),
            TableCell(text=up.short(each.y)),
            TableCell(text=across.short(each.x)),
            TableCell(text="on it" if each in front else ""),
            TableCell(text=str(each.x.count), runs=each.runs),
        ]
        for each in best_first
    ]
    for variant, count in incomplete:
        missing = TableCell(text="missing", state="missing", detail=f"{count} of the tasks have it")
        rows.append([TableCell(text=variant.text), missing, missing, TableCell(text=""), TableCell(text="0")])
    return Table(caption=title, head=["label", up.title, across.title, "Pareto front", "seeds"], rows=rows)


def _sentence(
    placed: Sequence[Placed],
    front: Sequence[Placed],
    incomplete: Sequence[tuple[Variant, int]],
    across: Measure,
    up: Measure,
) -> str:
    names = [each.variant.text for each in front]
    said = []
    if len(placed) > 1 and len(front) == 1:
        said.append(f"{names[0]} has both the highest gain and the least forgetting of {len(placed)}, by the means.")
    elif len(placed) > 1:
        said.append(f"On the front of the means are {listed(names)}, of {len(placed)}.")
    said.append(leader_sentence({each.variant.text: each.y for each in placed}, up, "learns most"))
    said.append(leader_sentence({each.variant.text: each.x for each in placed}, across, "keeps most"))
    if incomplete:
        said.append(f"Not placed, for lack of a task: {listed([variant.text for variant, _ in incomplete])}.")
    return " ".join(filter(None, said))


def _over(tasks: Sequence[str]) -> str:
    return tasks[0] if len(tasks) == 1 else f"mean over {len(tasks)} tasks"
