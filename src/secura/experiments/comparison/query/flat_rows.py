"""All runs of a comparison as flat rows, those that are missing included: the table `runs` of a query."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secura.evaluation.retention_metrics import ScoreMatrix, average_accuracy
from secura.evaluation.tally import together
from secura.experiments.comparison.grid.grid_run import GridRun
from secura.experiments.comparison.runs.comparison_run import declared_runs
from secura.experiments.comparison.runs.record import RunRecord
from secura.experiments.comparison.runs.record_files import read_records

Row = dict[str, Any]

_TEXT, _WHOLE, _NUMBER = "VARCHAR", "BIGINT", "DOUBLE"
COLUMNS: Mapping[str, str] = {
    **dict.fromkeys(("name", "grid", "label", "method", "strategy", "model", "task"), _TEXT),
    "seed": _WHOLE,
    "order_seed": _WHOLE,
    "learning_rate": _NUMBER,
    "steps": _WHOLE,
    **dict.fromkeys(("status", "error", "source", "created_at"), _TEXT),
    "asked": _WHOLE,
    "gain_before": _NUMBER,
    "gain_after": _NUMBER,
    **dict.fromkeys(("gain_nats_before", "gain_nats_after"), _NUMBER),
    **dict.fromkeys(("knowledge_before", "knowledge_after", "knowledge_kept"), _NUMBER),
    **dict.fromkeys(("forgetting_nats", "just_learned", "at_the_end", "train_loss"), _NUMBER),
    **dict.fromkeys(("trainable_weights", "total_weights", "adapter_bytes"), _WHOLE),
    **dict.fromkeys(("seconds", "total_seconds", "peak_memory_mb"), _NUMBER),
}
"""The columns and their types in SQL; docs/compare.md says what each means."""


def flat_rows(folder: Path, records: list[RunRecord] | None = None) -> list[Row]:
    """One row a run, those without a record as `missing`.

    Args:
        folder: folder of a comparison.
        records: its records, where they are already read.
    """
    found = read_records(folder) if records is None else records
    known = {(record.grid, record.name) for record in found}
    missing = [run for run in declared_runs(folder) if (run.grid, run.name) not in known]
    return [*map(_row, found), *map(_missing_row, missing)]


def _row(record: RunRecord) -> Row:
    cost = record.cost
    return _whole_row(
        record,
        status=record.status,
        error=record.error or None,
        source=record.source,
        created_at=record.created_at or None,
        asked=record.gain.asked if record.gain else None,
        gain_before=record.gain.before / record.gain.asked if record.gain else None,
        gain_after=record.gain.after / record.gain.asked if record.gain else record.accuracy,
        gain_nats_before=record.gain_nats[0],
        gain_nats_after=record.gain_nats[1],
        **_known(record),
        forgetting_nats=record.forgetting_nats,
        **_of_sequence(record),
        train_loss=record.train_loss,
        trainable_weights=cost.trainable_weights,
        total_weights=cost.total_weights,
        adapter_bytes=cost.adapter_bytes,
        seconds=cost.training_seconds,
        total_seconds=record.total_seconds,
        peak_memory_mb=cost.peak_memory_mb,
    )


def _missing_row(run: GridRun) -> Row:
    return _whole_row(run, status="missing", source="secura")


def _whole_row(run: RunRecord | GridRun, **more: Any) -> Row:
    """A row with every column, in order: which run it is, and what is known of it; None where nothing is."""
    which = {key: getattr(run, key) for key in ("name", "grid", "label", "model", "task", "seed", "learning_rate")}
    known = {**which, **_of_settings(run.settings), **more}
    return {column: known.get(column) for column in COLUMNS}


def _of_settings(settings: Mapping[str, Any]) -> Row:
    """What the settings of one of our runs tell; PEFT's have other names, and training alone."""
    training = settings.get("training", {})
    return {
        "method": settings.get("method", {}).get("name"),
        "strategy": settings.get("strategy", {}).get("name"),
        "order_seed": settings.get("order_seed"),
        "steps": training.get("steps", training.get("max_steps")),
    }


def _known(record: RunRecord) -> Row:
    """Knowledge questions, each counting once: the shares answered right, and what was kept."""
    known = together(record.knowledge.values())
    if not known.asked:
        return {}
    return {
        "knowledge_before": known.before / known.asked,
        "knowledge_after": known.after / known.asked,
        "knowledge_kept": known.kept,
    }


def _of_sequence(record: RunRecord) -> Row:
    """Mean score of each task right after it was learned, and at the end; missing where one task's is."""
    if record.sequence is None:
        return {}
    scores = tuple(tuple(row) for row in record.sequence.scores)
    matrix = ScoreMatrix(tasks=tuple(record.sequence.tasks), scores=scores)
    learned = [matrix.score(stage, task) for stage, task in enumerate(matrix.learned, start=1)]
    whole = [score for score in learned if score is not None]
    return {
        "just_learned": sum(whole) / len(whole) if whole and len(whole) == len(learned) else None,
        "at_the_end": average_accuracy(matrix).mean,
    }
