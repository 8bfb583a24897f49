"""What lies in the folder that a studio shows: runs, sequences, and pages made of them."""

import html
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from secura.errors import SecuraError
from secura.evaluation.tally import kept_phrase
from secura.experiments.dial.result import JSON_FILE as DIAL_JSON
from secura.experiments.files import ADAPTER_FOLDER, CONFIG_FILE, LOG_FILE, MODEL_FOLDER, REPORT_FILE
from secura.experiments.forget.result_json import JSON_FILE as FORGET_JSON
from secura.experiments.sequence.run import SUMMARY_FILE
from secura.experiments.settings.layers import read_yaml
from secura.json_text import read_json
from secura.report.card.finished_run import read_run
from secura.report.dial_page import PAGE_FILE as DIAL_PAGE
from secura.report.forget_page import PAGE_FILE as FORGET_PAGE
from secura.report.report_page import PAGE_FILE as COMPARISON_PAGE
from secura.report.run_page import headline

Kind = Literal["run", "sequence", "forget", "dial", "comparison"]

PAGES: dict[Kind, str] = {"forget": FORGET_PAGE, "dial": DIAL_PAGE, "comparison": COMPARISON_PAGE}
"""The page that a folder holds of each kind; that of a run is made as it is asked for."""
KINDS: dict[Kind, str] = {
    "run": "run",
    "sequence": "sequence",
    "forget": "what was broken",
    "dial": "dial",
    "comparison": "comparison",
}
"""What a reader calls each."""

_DEPTH = 4
"""Folders within folders that are looked into."""
_RESULTS: dict[Kind, str] = {"run": REPORT_FILE, "sequence": SUMMARY_FILE, **PAGES}
_JSON: dict[Kind, str] = {"forget": FORGET_JSON, "dial": DIAL_JSON}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A folder that is shown."""

    name: str
    """Its path below the folder of the studio, with `/` between its parts."""
    folder: Path
    """Where it is."""
    kind: Kind
    """What it holds."""

    @property
    def is_begun(self) -> bool:
        """Whether anything is in the folder yet."""
        return (self.folder / CONFIG_FILE).is_file() or self.is_done

    @property
    def is_done(self) -> bool:
        """Whether it has come to its end."""
        return (self.folder / _RESULTS[self.kind]).is_file()

    @property
    def changed(self) -> float:
        """When it was last written to, in seconds since 1970; 0 where nothing is there."""
        files = (self.folder / name for name in (_RESULTS[self.kind], LOG_FILE, CONFIG_FILE))
        return max((path.stat().st_mtime for path in files if path.is_file()), default=0.0)

    @property
    def can_be_talked_to(self) -> bool:
        """Whether a model lies in it."""
        saved = (ADAPTER_FOLDER, MODEL_FOLDER) if self.kind in ("run", "sequence") else ()
        return any((self.folder / name).is_dir() for name in saved)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of a run, as its folder has them; nothing where they are not there or are damaged."""
        return _settings(self.folder / CONFIG_FILE, _age(self.folder / CONFIG_FILE))

    @property
    def headline(self) -> str:
        """What came of it in a sentence or two; empty where that is not known."""
        result = self.folder / _RESULTS[self.kind]
        return _headline(self.kind, result, _age(result)) if result.is_file() else ""

    @property
    def about(self) -> Path | None:
        """The folder that a comparison or a dial tells of; None where that is not known."""
        if self.kind not in _JSON:
            return None
        file = self.folder / _JSON[self.kind]
        tuned = _tuned(file, _age(file))
        return None if tuned is None else Path(tuned).resolve()


def find_entries(root: Path) -> list[Entry]:
    """Everything below a folder that can be shown, the newest first; links to other places are not followed."""
    entries = (Entry(name=_name(root, folder), folder=folder, kind=kind) for folder, kind in _folders(root))
    named = (entry for entry in entries if folder_called(root, entry.name) is not None)
    return sorted(named, key=lambda entry: entry.changed, reverse=True)


def entry_called(root: Path, name: str) -> Entry | None:
    """What lies in a folder under a name; None where nothing does."""
    folder = folder_called(root, name)
    kind = None if folder is None else _kind(folder)
    return None if folder is None or kind is None else Entry(name=name, folder=folder, kind=kind)


def folder_called(root: Path, name: str) -> Path | None:
    """The folder of a name below another one; None for a name that leads elsewhere, or into what is hidden."""
    parts = PurePosixPath(name).parts
    if not parts or any(part.startswith((".", "/")) or set(part) & set("\\\0:") for part in parts):
        return None
    folder = root.joinpath(*parts)
    return folder if folder.resolve().is_relative_to(root.resolve()) else None


def pages_about(entries: Sequence[Entry], folder: Path) -> list[Entry]:
    """The comparisons and dials that tell of a run."""
    about = {folder.resolve(), *(folder.resolve() / name for name in (ADAPTER_FOLDER, MODEL_FOLDER))}
    return [entry for entry in entries if entry.about in about]


def step_logs(entry: Entry) -> list[Path]:
    """The logs of a run's steps, one a task."""
    if entry.kind == "sequence":
        return sorted(entry.folder.glob(f"task-*/{LOG_FILE}"))
    return [entry.folder / LOG_FILE]


def _folders(root: Path) -> Iterator[tuple[Path, Kind]]:
    for place, below, _ in os.walk(root):
        folder = Path(place)
        kind = None if folder == root else _kind(folder)
        if kind is not None:
            yield folder, kind
        deep = len(folder.relative_to(root).parts) >= _DEPTH
        below[:] = [] if deep or kind in ("run", "sequence") else [name for name in below if name[0] != "."]


def _kind(folder: Path) -> Kind | None:
    if (folder / CONFIG_FILE).is_file():
        return "sequence" if "tasks" in _settings(folder / CONFIG_FILE, _age(folder / CONFIG_FILE)) else "run"
    return next((kind for kind, page in PAGES.items() if (folder / page).is_file()), None)


def _name(root: Path, folder: Path) -> str:
    return folder.relative_to(root).as_posix()


def _age(file: Path) -> int:
    """Tells a file from what it was before."""
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


@lru_cache(maxsize=2_000)
def _settings(file: Path, age: int) -> dict[str, Any]:
    del age
    try:
        return read_yaml(file)
    except SecuraError:
        return {}


@lru_cache(maxsize=2_000)
def _headline(kind: Kind, result: Path, age: int) -> str:
    del age
    if kind in PAGES:
        return _title(result)
    try:
        run = read_run(result.parent)
    except (SecuraError, OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        return f"This run cannot be read ({type(problem).__name__}: {problem})."
    if kind == "run":
        return f"{headline(run)} {run.certificate['sentence']}" if run.certificate else headline(run)
    kept = "" if run.knowledge is None else f" Kept of what the base answers right: {kept_phrase(run.knowledge)}."
    return f"{len(run.tasks)} tasks learned.{kept}"


def _title(page: Path) -> str:
    """The title of a page of ours, which is its finding."""
    with page.open(encoding="utf-8", errors="replace") as file:
        found = re.search(r"<title>(.*?)</title>", file.read(20_000), re.DOTALL)
    return " ".join(html.unescape(found[1]).split()) if found else ""


@lru_cache(maxsize=2_000)
def _tuned(file: Path, age: int) -> str | None:
    del age
    try:
        tuned = read_json(file)["tuned"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return tuned if isinstance(tuned, str) else None
