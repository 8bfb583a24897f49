"""What each label cost: weights, bytes, seconds and memory."""

import json
import statistics
from collections.abc import Callable, Sequence

from secura.experiments.comparison.runs.record import RunRecord
from secura.report.comparison.exhibit import Absent, Exhibit, Table, TableCell
from secura.report.comparison.runs import GridRuns
from secura.report.comparison.saying import each_place
from secura.report.wording import listed

_TITLE = "Cost"
Number = Callable[[RunRecord], float | None]


def cost(grid: GridRuns) -> Exhibit | Absent:
    """The exhibit of a grid."""
    tables: list[Table] = []
    sentences: dict[str, str] = {}
    for model in grid.models:
        rows, seconds, weights = [], {}, {}
        for label in grid.labels:
            own = [record for record in grid.done if (record.model, record.label) == (model, label)]
            if own:
                rows.append(_row(label, own))
                seconds[label] = _median(own, _seconds)
                weights[label] = _median(own, _trained)
        if rows and any(value is not None for value in (*seconds.values(), *weights.values())):
            tables.append(
                Table(
                    caption=model,
                    head=["label", "trained weights", "of all", "saved", "training, s", "peak memory, MB", "runs"],
                    rows=rows,
                )
            )
            sentences[model] = _sentence(weights, seconds)
    if not tables:
        return Absent(
            title=_TITLE,
            reason="no run of this grid says what it cost",
            remedy="",
        )
    return Exhibit(
        key="cost",
        title=_TITLE,
        sentence=each_place(sentences),
        note=(
            "Medians over all runs of a label, with the least and the most where they differ. Seconds are of the "
            f"training steps alone. {_hardware_note(grid.done)}"
        ),
        tables=tables,
    )


def _trained(record: RunRecord) -> float | None:
    return record.cost.trainable_weights


def _share(record: RunRecord) -> float | None:
    trained, total = record.cost.trainable_weights, record.cost.total_weights
    return None if trained is None or not total else trained / total


def _saved(record: RunRecord) -> float | None:
    return record.cost.adapter_bytes


def _seconds(record: RunRecord) -> float | None:
    return record.cost.training_seconds


def _memory(record: RunRecord) -> float | None:
    return record.cost.peak_memory_mb


def _row(label: str, records: Sequence[RunRecord]) -> list[TableCell]:
    return [
        TableCell(text=label),
        _cell(records, _trained, lambda value: f"{value:,.0f}"),
        _cell(records, _share, lambda value: f"{100 * value:.3g}%"),
        _cell(records, _saved, size_text),
        _cell(records, _seconds, _seconds_text),
        _cell(records, _memory, lambda value: f"{value:,.0f}"),
        TableCell(text=str(len(records)), runs=[record.name for record in records]),
    ]


def size_text(value: float) -> str:
    """A size in bytes as people write it, in powers of ten."""
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f} B"


def _seconds_text(value: float) -> str:
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def _numbers(records: Sequence[RunRecord], number: Number) -> list[float]:
    return [value for record in records if (value := number(record)) is not None]


def _median(records: Sequence[RunRecord], number: Number) -> float | None:
    values = _numbers(records, number)
    return statistics.median(values) if values else None


def _cell(records: Sequence[RunRecord], number: Number, text: Callable[[float], str]) -> TableCell:
    values = _numbers(records, number)
    if not values:
        return TableCell(text="missing", state="missing")
    least, most = text(min(values)), text(max(values))
    return TableCell(text=text(statistics.median(values)), detail="" if least == most else f"{least} to {most}")


def _sentence(weights: dict[str, float | None], seconds: dict[str, float | None]) -> str:
    said = []
    known = {label: value for label, value in weights.items() if value is not None}
    if known:
        least = min(known.values())
        few = [label for label, value in known.items() if value == least]
        said.append(f"{listed(few)} {'trains' if len(few) == 1 else 'train'} the fewest weights, {least:,.0f}")
        if max(known.values()) > least:
            many = max(known, key=lambda label: known[label])
            said[-1] += f"; {many} the most, {known[many]:,.0f}"
    timed = {label: value for label, value in seconds.items() if value is not None and value > 0}
    fast, slow = (chosen(timed, key=lambda label: timed[label], default="") for chosen in (min, max))
    if timed and timed[slow] > 1.05 * timed[fast]:
        longer = f"{timed[slow] / timed[fast]:.1f} times as long as {fast}"
        said.append(
            f"{slow} takes {longer}, {_seconds_text(timed[slow])} s beside {_seconds_text(timed[fast])} s in the median"
        )
    return "".join(f"{each}. " for each in said).strip()


def _hardware_note(records: Sequence[RunRecord]) -> str:
    kinds = {json.dumps(record.provenance.get("hardware"), sort_keys=True, default=str) for record in records}
    if len(kinds) > 1:
        return (
            f"The runs are of {len(kinds)} kinds of hardware, so seconds and memory do not compare between all of them."
        )
    return "Runs that shared their cores with others took longer than they would alone."
