"""Where training and retention data come from: a local file, or a data set of the hub.

A file is JSON Lines or one JSON array, either of them gzipped or not. A hub data set is
named `org/name`, `org/name:split` or `org/name:config:split`; a copy in the local cache is
used without a network.
"""

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path

from secura.errors import DataError
from secura.tasks.data_rows import item_from_row
from secura.tasks.hub_rows import hub_rows
from secura.tasks.question import Item, PlainText


def read_items(source: str, *, split: str = "train") -> list[Item]:
    """Read every row of a file or hub data set.

    Args:
        source: path of a file; or, where no such file exists, a hub data set.
        split: the split of a hub data set that names none itself.

    Raises:
        DataError: if the source is missing, empty, mixes plain text with questions, or
            holds a row that cannot be read; the message names the line.
    """
    items: list[Item] = []
    for where, row in source_rows(source, split=split):
        item = item_from_row(row, where=where)
        if items and isinstance(item, PlainText) != isinstance(items[0], PlainText):
            raise DataError(f"{where}: mixes plain text with questions; use one shape throughout a file.")
        items.append(item)
    if not items:
        raise DataError(f"{source} is empty: it holds no rows.")
    return items


def source_rows(source: str, *, split: str) -> Iterator[tuple[str, object]]:
    """Each row of a file or hub data set, with its place.

    Raises:
        DataError: if there is neither a file nor a data set by that name.
    """
    if os.path.exists(source):
        yield from file_rows(Path(source))
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


def file_rows(path: Path) -> Iterator[tuple[str, object]]:
    """Each row of a file with its place, such as `data.jsonl, line 3`."""
    if path.is_dir():
        raise DataError(f"{path} is a folder; name a .jsonl or .json file in it.")
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise DataError(f"{path} is not UTF-8 text: {problem.reason} at byte {problem.start}.") from problem
    except (OSError, EOFError) as problem:
        raise DataError(f"{path} cannot be read: {problem}.") from problem
    if text.lstrip()[:1] == "[":
        yield from _array_rows(path, text)
        return
    # Only line feeds end a row: a JSON text may hold other line separators, such as U+2028.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            try:
                yield where, json.loads(line)
            except json.JSONDecodeError as problem:
                raise DataError(f"{where}: is not JSON ({problem.msg} at column {problem.colno}).") from problem


def _array_rows(path: Path, text: str) -> Iterator[tuple[str, object]]:
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as problem:
        raise DataError(f"{path}, line {problem.lineno}: is not JSON ({problem.msg}).") from problem
    for number, row in enumerate(rows, start=1):
        yield f"{path}, row {number}", row


def hub_name(source: str, split: str) -> tuple[str, str | None, str]:
    """Name, configuration and split of a hub data set; `split` where the source names none.

    Raises:
        DataError: if it cannot be the name of one.
    """
    name, *rest = source.split(":")
    looks_like_a_file = source.startswith((".", "/", "~")) or source.endswith((".jsonl", ".json", ".gz"))
    if looks_like_a_file or name.count("/") > 1 or len(rest) > 2 or not name:
        raise DataError(f"{source}: no such file; a hub data set is named org/name or org/name:config:split.")
    return name, rest[0] if len(rest) == 2 else None, rest[-1] if rest else split
