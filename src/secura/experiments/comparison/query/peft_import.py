"""PEFT's published results beside ours: its files are kept as they are, and read like any record."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from secura.errors import DataError
from secura.experiments.comparison.runs.record_files import read_record, record_path
from secura.json_text import read_json
from secura.whole_files import write_text

_OLD_RUN = "--20"
"""PEFT keeps earlier runs of an experiment beside the last one, under its name and a date."""


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What an import came to."""

    stored: Sequence[Path]
    """The records, where they lie now."""
    skipped: Sequence[str]
    """Names of files that are earlier runs of an experiment which is there too."""


def import_results(source: Path, folder: Path) -> Imported:
    """Store PEFT's results in a comparison; all files are checked before the first is stored.

    Args:
        source: a result file of PEFT's method comparison, or a folder of them.
        folder: folder of the comparison.

    Raises:
        DataError: if there is nothing, or a file is not in PEFT's layout or is one of ours.
    """
    if not source.exists():
        raise DataError(f"{source}: no such file or folder; name PEFT's results, such as MetaMathQA/results.")
    files = sorted(source.glob("*.json")) if source.is_dir() else [source]
    if not files:
        raise DataError(f"{source} holds no .json file; name the folder with PEFT's results themselves.")
    stems = {path.stem for path in files}
    old = [path for path in files if _OLD_RUN in path.stem and path.stem.rsplit(_OLD_RUN, 1)[0] in stems]
    found = {path: read_record(path) for path in files if path not in old}
    names: dict[str, Path] = {}
    for path, record in found.items():
        if record.source != "peft":
            raise DataError(f"{path} is a result of secura compare, not of PEFT; it needs no import.")
        if record.name in names:
            raise DataError(f"{path} and {names[record.name]} are the same experiment, {record.label}; leave one out.")
        names[record.name] = path
    stored = []
    for path, record in found.items():
        place = record_path(folder, record.grid, record.name)
        write_text(place, json.dumps(read_json(path), indent=2) + "\n")
        stored.append(place)
    return Imported(stored=stored, skipped=[path.name for path in old])
