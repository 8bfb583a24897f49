"""A comparison as tables for SQL, by duckdb.

runs            one row a run, missing and failed ones included; see `flat_rows`
knowledge       name, family, asked, before, after, lost
scores          name, stage, after_task, task, score; for sequences
gradient_norms  name, step, norm
spectra         name, layer, place, before, after
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import duckdb
import pyarrow
import pyarrow.csv
import pyarrow.parquet

from secura.errors import ConfigError, DataError
from secura.experiments.comparison.query.flat_rows import COLUMNS, flat_rows
from secura.experiments.comparison.runs.record import RunRecord
from secura.experiments.comparison.runs.record_files import read_records

_TYPES = {"VARCHAR": pyarrow.string(), "BIGINT": pyarrow.int64(), "DOUBLE": pyarrow.float64()}
_TABLES: dict[str, dict[str, str]] = {
    "knowledge": {
        "name": "VARCHAR",
        "family": "VARCHAR",
        **dict.fromkeys(("asked", "before", "after", "lost"), "BIGINT"),
    },
    "scores": {
        "name": "VARCHAR",
        "stage": "BIGINT",
        "after_task": "VARCHAR",
        "task": "VARCHAR",
        "score": "DOUBLE",
    },
    "gradient_norms": {"name": "VARCHAR", "step": "BIGINT", "norm": "DOUBLE"},
    "spectra": {"name": "VARCHAR", "layer": "VARCHAR", "place": "BIGINT", "before": "DOUBLE", "after": "DOUBLE"},
}
_EXPORTS: dict[str, Callable[[pyarrow.Table, BinaryIO], object]] = {
    ".csv": pyarrow.csv.write_csv,
    ".parquet": pyarrow.parquet.write_table,
}
_LOCKED = (
    "temp_directory = ''",  # or what does not fit into memory would be written beside the user's files
    "enable_external_access = false",
    "python_enable_replacements = false",
    "memory_limit = '1GB'",
    "lock_configuration = true",
)
_MOST_ROWS = 1_000_000
_SECONDS = 60.0
"""A query over the few rows of a comparison takes milliseconds; one that takes longer will not end."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a query came to."""

    columns: Sequence[str]
    """Names of the columns."""
    rows: Sequence[tuple[Any, ...]]
    """The rows."""


class Tables:
    """The tables of one comparison."""

    def __init__(self, folder: Path, *, seconds: float = _SECONDS) -> None:
        """Read every record of a folder.

        Args:
            folder: folder of a comparison.
            seconds: the longest that a query may take.

        Raises:
            DataError: if there is no such folder, or nothing in it.
        """
        records = read_records(folder)
        rows = flat_rows(folder, records)
        if not rows:
            raise DataError(f"{folder} holds no run of a comparison; name the folder given to secura compare --out.")
        self.seconds = seconds
        self._connection = duckdb.connect()
        self._add("runs", COLUMNS, rows)
        for name, columns in _TABLES.items():
            found = [dict(zip(columns, values, strict=True)) for values in _ROWS[name](records)]
            self._add(name, columns, found)
        # A query may come from a page or a colleague: it sees these tables, and no file or address.
        for setting in _LOCKED:
            self._connection.execute(f"set {setting}")

    def _add(self, name: str, columns: Any, rows: list[dict[str, Any]]) -> None:
        schema = pyarrow.schema([(column, _TYPES[kind]) for column, kind in columns.items()])
        self._connection.register(f"{name}_rows", pyarrow.Table.from_pylist(rows, schema=schema))
        self._connection.execute(f"create table {name} as select * from {name}_rows")
        self._connection.unregister(f"{name}_rows")

    def query(self, sql: str) -> Answer:
        """Answer a query.

        Raises:
            ConfigError: if it is not SQL, names what is not there or may not be read, or takes too long; one line.
        """
        with self._within_limits():
            result = self._connection.execute(sql)
            columns = [column[0] for column in result.description or ()]
            rows = result.fetchmany(_MOST_ROWS + 1) if columns else []
        if len(rows) > _MOST_ROWS:
            raise ConfigError(f"--sql: the answer has more than {_MOST_ROWS:,} rows; add a limit to the query.")
        return Answer(columns=columns, rows=rows)

    @contextmanager
    def _within_limits(self) -> Iterator[None]:
        clock = threading.Timer(self.seconds, self._connection.interrupt)
        clock.daemon = True
        clock.start()
        try:
            yield
        except duckdb.InterruptException as problem:
            raise ConfigError(f"--sql: no answer within {self.seconds:g} seconds; ask for less.") from problem
        except (duckdb.Error, RecursionError) as problem:
            raise ConfigError(f"--sql: {' '.join(str(problem).split())}") from problem
        finally:
            clock.cancel()

    def export(self, sql: str, path: Path) -> None:
        """Write what a query comes to into a file; what kind of file, its name tells.

        Raises:
            ConfigError: if the query is wrong, the name ends in neither .csv nor .parquet, or the
                file cannot be written.
        """
        if path.suffix not in _EXPORTS:
            raise ConfigError(f"{path}: a table is written as .csv or .parquet; let the name end in one of them.")
        partial = path.with_name(path.name + ".partial")
        with self._within_limits():
            result = self._connection.sql(sql)
            if result is None:
                raise ConfigError("--sql: the query gives no rows to write; let it be a select.")
            table = result.limit(_MOST_ROWS + 1).to_arrow_table()
        if len(table) > _MOST_ROWS:
            raise ConfigError(f"--sql: the answer has more than {_MOST_ROWS:,} rows; add a limit to the query.")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                _EXPORTS[path.suffix](table, file)
            partial.replace(path)
        except OSError as problem:
            raise ConfigError(f"{path} cannot be written: {problem.strerror}.") from problem
        finally:
            partial.unlink(missing_ok=True)


def _knowledge(records: Sequence[RunRecord]) -> Iterator[tuple[Any, ...]]:
    for record in records:
        for family, tally in record.knowledge.items():
            yield record.name, family, tally.asked, tally.before, tally.after, tally.lost


def _scores(records: Sequence[RunRecord]) -> Iterator[tuple[Any, ...]]:
    for record in records:
        if record.sequence is None:
            continue
        tasks = record.sequence.tasks
        for stage, row in enumerate(record.sequence.scores):
            for task, score in zip(tasks, row, strict=True):
                yield record.name, stage, tasks[stage - 1] if stage else None, task, score


def _gradient_norms(records: Sequence[RunRecord]) -> Iterator[tuple[Any, ...]]:
    for record in records:
        for step, norm in record.gradient_norms:
            yield record.name, step, norm


def _spectra(records: Sequence[RunRecord]) -> Iterator[tuple[Any, ...]]:
    for record in records:
        for spectrum in record.spectra:
            for place, (before, after) in enumerate(zip(spectrum.before, spectrum.after, strict=True), start=1):
                yield record.name, spectrum.layer, place, before, after


_ROWS = {"knowledge": _knowledge, "scores": _scores, "gradient_norms": _gradient_norms, "spectra": _spectra}
