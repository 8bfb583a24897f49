"""Where training and retention data come from: a local file, a folder of files, or a data set of the hub.

| file | read by |
|---|---|
| JSON Lines, a JSON array | here, so that an error names the line |
| CSV, TSV | Python's `csv`, for the same reason: each cell stays the text that it is |
| Parquet, Arrow | `datasets` |

All but the last may be gzipped. In a folder, `datasets` tells by their names which files are of which
split. A hub data set is named `org/name`, `org/name:split` or `org/name:config:split`; a copy in the
local cache is used without a network.
"""

import csv
import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secura.errors import DataError
from secura.json_text import parsed_json
from secura.tasks.data_rows import KNOWN_COLUMNS, item_from_row, renamed, unused_columns
from secura.tasks.hub_rows import hub_rows
from secura.tasks.question import Item, PlainText

_TABLES = {".parquet": "parquet", ".arrow": "arrow"}
"""What `datasets` reads, and its name for it."""
_TEXTS = (".jsonl", ".json", ".ndjson", ".csv", ".tsv")
_SEPARATORS = ",;\t|"
_BETWEEN_ROWS = re.compile(r"[\s,]*")
_LONGEST_CELL = 2**30
"""Characters; Python's own limit, 131,072, is shorter than many a document."""


@dataclass(frozen=True, kw_only=True)
class SourceItems:
    """What a source holds."""

    items: list[Item]
    """One a row."""
    unused: tuple[str, ...]
    """Columns that hold something and that no row is read from."""


def read_items(source: str, *, split: str = "train", columns: Mapping[str, str] | None = None) -> list[Item]:
    """Read every row of a file, folder or hub data set; see `read_source`."""
    return read_source(source, split=split, columns=columns).items


def read_source(source: str, *, split: str = "train", columns: Mapping[str, str] | None = None) -> SourceItems:
    """Read every row of a file, folder or hub data set.

    Args:
        source: path of a file or folder; or, where no such file exists, a hub data set.
        split: the split of a folder, or of a hub data set that names none itself.
        columns: by the names that rows are read by, what they are called there.

    Raises:
        DataError: if the source is missing, empty, mixes plain text with questions, or
            holds a row that cannot be read; the message names the line.
    """
    columns = columns or {}
    items: list[Item] = []
    seen: dict[str, None] = {}
    unused: dict[str, None] = {}
    for where, stored in source_rows(source, split=split):
        if isinstance(stored, Mapping):
            seen |= dict.fromkeys(map(str, stored))
        row = renamed(stored, columns)
        try:
            item = item_from_row(row, where=where)
        except DataError as problem:
            raise _with_columns(problem, columns, seen) from problem
        if items and isinstance(item, PlainText) != isinstance(items[0], PlainText):
            raise DataError(f"{where}: mixes plain text with questions; use one shape throughout a file.")
        items.append(item)
        unused |= dict.fromkeys(unused_columns(row))
    if not items:
        raise DataError(f"{source} is empty: it holds no rows.")
    for ours, theirs in columns.items():
        if theirs not in seen:
            raise DataError(
                f"{source} has no column {theirs!r}, which data.columns.{ours} names; it has {', '.join(seen)}."
            )
    return SourceItems(items=items, unused=tuple(unused))


def _with_columns(problem: DataError, columns: Mapping[str, str], seen: Mapping[str, None]) -> DataError:
    """The error of a row, with the names that it was read under."""
    absent = [(ours, theirs) for ours, theirs in columns.items() if theirs not in seen]
    if absent:
        named = ", ".join(f"data.columns.{ours} names {theirs!r}" for ours, theirs in absent)
        return DataError(f"{problem} {named}, which no row so far has.")
    named = ", ".join(f"{ours} from {theirs!r}" for ours, theirs in columns.items())
    return DataError(f"{problem} By data.columns it reads {named}.") if named else problem


def check_columns(columns: Mapping[str, str]) -> None:
    """Refuse to map a column that no row is read by.

    Raises:
        DataError: naming it, and those that there are.
    """
    for ours in columns:
        if ours not in KNOWN_COLUMNS:
            raise DataError(f"data.columns.{ours}: rows have no column {ours!r}; known are {', '.join(KNOWN_COLUMNS)}.")


def source_rows(source: str, *, split: str) -> Iterator[tuple[str, object]]:
    """Each row of a file, folder or hub data set, with its place.

    Raises:
        DataError: if there is nothing by that name.
    """
    if os.path.exists(source):
        path = Path(source)
        for file in folder_files(path, split) if path.is_dir() else [path]:
            yield from file_rows(file)
        return
    name, config, split = hub_name(source, split)
    try:
        rows = hub_rows(name, config, split)
    except LookupError as problem:
        raise DataError(
            f"{source}: no such file here, and no hub data set by that name could be loaded ({problem})."
        ) from problem
    for number, row in enumerate(rows, start=1):
        yield f"{source}, row {number}", row


def folder_files(folder: Path, split: str) -> list[Path]:
    """The files of one split of a folder, in order of their names; a folder without splits is all `train`.

    Raises:
        DataError: if there are none.
    """
    from datasets.data_files import DataFilesDict, EmptyDatasetError, get_data_patterns

    try:
        patterns = get_data_patterns(str(folder.resolve()))
        found = DataFilesDict.from_patterns(patterns, base_path=str(folder.resolve()))
    except (EmptyDatasetError, FileNotFoundError):
        found = {}
    splits = {
        str(name): sorted(Path(file) for file in files if _is_readable(Path(file))) for name, files in found.items()
    }
    splits = {name: files for name, files in splits.items() if files}
    if not splits:
        kinds = ", ".join((*_TEXTS, *_TABLES))
        raise DataError(f"{folder} is a folder without data files; readable are {kinds}, gzipped or not.")
    if split not in splits:
        raise DataError(
            f"{folder} has no files of split {split!r}; by their names, its splits are {', '.join(splits)}."
        )
    return splits[split]


def _is_readable(path: Path) -> bool:
    return _suffix(path) in (*_TEXTS, *_TABLES)


def _suffix(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix.lower()


def file_rows(path: Path) -> Iterator[tuple[str, object]]:
    """Each row of a file with its place, such as `data.jsonl, line 3`."""
    if path.is_dir():
        raise DataError(f"{path} is a folder; name a file in it.")
    suffix = _suffix(path)
    if suffix in _TABLES:
        yield from _table_rows(path, _TABLES[suffix])
        return
    text = _text_of(path)
    if suffix in (".csv", ".tsv"):
        yield from _csv_rows(path, text)
        return
    if text.lstrip()[:1] == "[":
        yield from _array_rows(path, text)
        return
    # Only line feeds end a row: a JSON text may hold other line separators, such as U+2028.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            try:
                yield where, parsed_json(line)
            except json.JSONDecodeError as problem:
                what = f"is not JSON ({problem.msg} at column {problem.colno})"
                if number == 1 and _is_json(text):
                    what = "begins one JSON object over several lines; put the rows into an array, or a line each"
                raise DataError(f"{where}: {what}.") from problem


def _text_of(path: Path) -> str:
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise DataError(f"{path} is not UTF-8 text: {problem.reason} at byte {problem.start}.") from problem
    except (OSError, EOFError, zlib.error) as problem:
        raise DataError(f"{path} cannot be read: {problem}.") from problem


def _is_json(text: str) -> bool:
    try:
        parsed_json(text)
    except json.JSONDecodeError:
        return False
    return True


def _csv_rows(path: Path, text: str) -> Iterator[tuple[str, object]]:
    """Rows of a table of texts; the first line names the columns, and tells what separates them."""
    header = text.lstrip("\r\n").split("\n", 1)[0]
    separator = max(_SEPARATORS, key=header.count)
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_CELL))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    names: list[str] | None = None
    begins = 1
    try:
        for cells in reader:
            where, begins = f"{path}, line {begins}", reader.line_num + 1
            if not any(cells):
                continue
            if names is None:
                names = [cell.strip() for cell in cells]
                continue
            if len(cells) != len(names):
                raise DataError(f"{where}: has {len(cells)} cells, but the first line names {len(names)} columns.")
            # An empty cell is a column that this row does not have.
            yield where, {name: cell for name, cell in zip(names, cells, strict=True) if cell.strip()}
    except csv.Error as problem:
        raise DataError(f"{path}, line {reader.line_num}: is not CSV ({problem}).") from problem


def _table_rows(path: Path, kind: str) -> Iterator[tuple[str, object]]:
    import datasets

    verbosity = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what is wrong is said once, below
    try:
        rows: Any = datasets.load_dataset(kind, data_files=str(path), split="train", streaming=True)
        for number, row in enumerate(rows, start=1):
            yield f"{path}, row {number}", row
    except Exception as problem:  # pyarrow, fsspec and datasets each have their own
        reason = " ".join(str(problem).split())[:300]
        raise DataError(f"{path} cannot be read as a {kind} file: {reason}") from problem
    finally:
        datasets.logging.set_verbosity(verbosity)


def _array_rows(path: Path, text: str) -> Iterator[tuple[str, object]]:
    try:
        parsed_json(text)
    except json.JSONDecodeError as problem:
        raise DataError(f"{path}, line {problem.lineno}: is not JSON ({problem.msg}).") from problem
    # Read again row by row, to know the line that each begins in.
    decoder = json.JSONDecoder()
    number, line, counted, at = 0, 1, 0, text.index("[") + 1
    while True:
        at = _next_row(text, at)
        if text[at] == "]":
            return
        number, line, counted = number + 1, line + text.count("\n", counted, at), at
        row, at = decoder.raw_decode(text, at)
        yield f"{path}, line {line}, row {number}", row


def _next_row(text: str, at: int) -> int:
    """Where the next row of an array begins, or the array ends."""
    between = _BETWEEN_ROWS.match(text, at)
    assert between is not None
    return between.end()


def hub_name(source: str, split: str) -> tuple[str, str | None, str]:
    """Name, configuration and split of a hub data set; `split` where the source names none.

    Raises:
        DataError: if it cannot be the name of one.
    """
    name, *rest = source.split(":")
    looks_like_a_file = source.startswith((".", "/", "~")) or source.endswith((*_TEXTS, *_TABLES, ".gz"))
    if looks_like_a_file or name.count("/") != 1 or len(rest) > 2:
        raise DataError(f"{source}: no such file; a hub data set is named org/name or org/name:config:split.")
    return name, rest[0] if len(rest) == 2 else None, rest[-1] if rest else split
