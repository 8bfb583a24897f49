"""What a folder of results holds, grid by grid: records, the runs still missing, and where each record lies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from secura.errors import DataError
from secura.experiments.comparison.runs.comparison_run import declared_runs
from secura.experiments.comparison.runs.record import RunRecord
from secura.experiments.comparison.runs.record_files import RESULTS_FOLDER, read_records
from secura.report.comparison.runs import GridRuns, Missing, newest_of_each_cell


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything that a report is drawn from."""

    name: str
    """Name of the folder."""
    grids: Sequence[GridRuns]
    """Grids with runs of ours, by name."""
    records: Sequence[RunRecord]
    """All records, PEFT's published ones included."""
    files: Mapping[str, Path]
    """The file of each record, by the record's name."""
    notes: Sequence[str]
    """What a reader should know about how it was read."""


def read_comparison(folder: Path) -> Comparison:
    """Read every result below a folder.

    Raises:
        DataError: if there is no such folder, no result in it, or a file that is not a result.
    """
    found = read_records(folder)
    if not found:
        raise DataError(f"{folder} holds no result; make some with secura compare run, or name its folder.")
    files = {path.stem: path for path in (*folder.glob("*.json"), *folder.glob(f"**/{RESULTS_FOLDER}/*.json"))}
    notes = []
    records = newest_of_each_cell(found)
    if len(records) < len(found):
        notes.append(
            f"{len(found) - len(records)} older results are left out, whose runs were repeated with other settings."
        )
    missing, problem = _missing(folder, records)
    if problem:
        notes.append(f"Which runs were planned cannot be told: {problem}")
    own = [record for record in records if record.source != "peft"]
    names = sorted({record.grid for record in own} | {grid for grid, _ in missing})
    grids = [
        GridRuns(
            name=name,
            records=[record for record in own if record.grid == name],
            missing=[run for grid, run in missing if grid == name],
        )
        for name in names
    ]
    return Comparison(
        name=folder.resolve().name,
        grids=grids,
        records=records,
        files={record.name: path for record in records if (path := _file(files, record)) is not None},
        notes=notes,
    )


def _file(files: Mapping[str, Path], record: RunRecord) -> Path | None:
    """Where a record lies; PEFT's files are named as PEFT names them."""
    return files.get(record.name) or files.get(record.name.removeprefix("peft-"))


def _missing(folder: Path, records: Sequence[RunRecord]) -> tuple[list[tuple[str, Missing]], str]:
    """Planned runs without a record, each with its grid, and why that cannot be told, if so."""
    try:
        declared = declared_runs(folder)
    except DataError as problem:
        return [], str(problem)
    carried_out = {
        (record.grid, record.label, record.model, record.task, record.seed, record.learning_rate) for record in records
    }
    names = {record.name for record in records}
    missing: dict[tuple[str, Missing], None] = {}
    for run in declared:
        place = (run.grid, run.label, run.model, run.task, run.seed, run.learning_rate)
        # A sequence in another order is another run at the same place.
        if run.name in names or (run.kind == "train" and place in carried_out):
            continue
        lacking = Missing(
            label=run.label, model=run.model, task=run.task, seed=run.seed, learning_rate=run.learning_rate
        )
        missing[run.grid, lacking] = None
    return list(missing), ""
