"""How far a run is, read from its files and its process, so that neither a reload nor a restart loses it."""

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from secura.errors import SecuraError
from secura.json_text import parsed_json
from secura.one_writer import is_being_written
from secura.studio.entries import Entry, entry_called, find_entries, folder_called, step_logs
from secura.studio.started import Processes, Started
from secura.training.step_lines import read_step_lines

State = Literal["checking", "going on", "finishing", "stopping", "elsewhere", "done", "stopped", "failed", "refused"]
ACTIVE: tuple[State, ...] = ("checking", "going on", "finishing", "stopping", "elsewhere")
"""States of what has not ended."""

STATE_NAMES: dict[State, str] = {
    "checking": "checking",
    "going on": "going on",
    "finishing": "finishing",
    "stopping": "stopping",
    "elsewhere": "going on elsewhere",
    "done": "done",
    "stopped": "stopped",
    "failed": "failed",
    "refused": "not started",
}
_LAST_BYTES = 8_000
_MOST_POINTS = 1_500
"""Steps that a figure shows, at most."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A folder as it is now."""

    entry: Entry
    """What lies there, or will."""
    state: State
    """Where it stands."""
    started: Started | None
    """The process that was last started for it; None where none was."""
    step: int | None
    """The last step that was logged."""
    steps: int | None
    """How many there will be; None where that is not known yet."""
    loss: float | None
    """Of that step, in nats a token."""
    seconds_left: float | None
    """Until the last step, by how long the last ones took."""
    said: str
    """Why it ended before its end; empty where it did not."""

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.entry.name

    @property
    def is_active(self) -> bool:
        """Whether it has not ended."""
        return self.state in ACTIVE

    @property
    def can_stop(self) -> bool:
        """Whether it can be stopped from here."""
        return self.is_active and self.state != "elsewhere"

    @property
    def can_resume(self) -> bool:
        """Whether it can be gone on with."""
        return self.entry.kind == "run" and self.state in ("stopped", "failed") and self.entry.is_begun


class Watcher:
    """Tells how far each folder below another one is."""

    def __init__(self, root: Path, processes: Processes) -> None:
        self.root = root
        self._processes = processes
        self._first_seen: dict[str, tuple[int, float]] = {}

    def all(self) -> list[Progress]:
        """Everything in the folder, and what was started and has written nothing yet; what goes on comes first."""
        started = {each.name: each for each in self._processes.all()}
        entries = {entry.name: entry for entry in find_entries(self.root)}
        for name, process in started.items():
            folder = folder_called(self.root, name)
            if folder is not None:
                entries.setdefault(name, Entry(name=name, folder=folder, kind=process.kind))
        found = [self._progress(entry, started.get(entry.name)) for entry in entries.values()]
        return sorted(found, key=lambda each: (not each.is_active, -max(each.entry.changed, _began(each))))

    def of(self, name: str) -> Progress | None:
        """One of them; None where there is none of that name."""
        folder = folder_called(self.root, name)
        if folder is None:
            return None
        entry, started = entry_called(self.root, name), self._processes.of(name)
        if entry is None and started is not None:
            entry = Entry(name=name, folder=folder, kind=started.kind)
        return None if entry is None else self._progress(entry, started)

    def mark(self, name: str | None) -> str:
        """A text that changes when what a page shows does: the list's, or that of one folder."""
        if name is None:
            return json.dumps([(each.name, each.state, each.step) for each in self.all()])
        progress = self.of(name)
        return "" if progress is None else json.dumps([progress.state, progress.step, self._processes.output(name)])

    def _progress(self, entry: Entry, started: Started | None) -> Progress:
        last = _last_line(entry)
        steps = entry.settings.get("training", {}).get("steps") if entry.kind == "run" else None
        progress = Progress(
            entry=entry,
            state="done",
            started=started,
            step=last.get("step"),
            steps=steps if isinstance(steps, int) else None,
            loss=last.get("loss"),
            seconds_left=None,
            said="",
        )
        if started is not None and self._processes.is_alive(started):
            return self._active(progress, started)
        if entry.is_done:
            return progress
        if is_being_written(entry.folder):
            return replace(progress, state="elsewhere")
        said = "" if started is None else self._processes.last_words(entry.name)
        if started is None or started.stopping or said.startswith("stopped by"):
            return replace(progress, state="stopped", said=said)
        if not entry.is_begun:
            return replace(progress, state="refused", said=said or "it ended without a word; its output is below")
        return replace(progress, state="failed", said=said or "it ended without a word; its output is below")

    def _active(self, progress: Progress, started: Started) -> Progress:
        step, steps = progress.step, progress.steps
        if started.stopping:
            return replace(progress, state="stopping")
        if not progress.entry.is_begun and progress.entry.kind in ("run", "sequence"):
            return replace(progress, state="checking")
        if step is not None and step == steps:
            return replace(progress, state="finishing")
        return replace(progress, state="going on", seconds_left=self._seconds_left(progress, started))

    def _seconds_left(self, progress: Progress, started: Started) -> float | None:
        """By the time between the first step that was seen here and the last one."""
        step, steps = progress.step, progress.steps
        log = step_logs(progress.entry)[-1:]
        if step is None or steps is None or not log:
            return None
        key = f"{progress.name} {started.began}"
        logged = log[0].stat().st_mtime
        first_step, first_logged = self._first_seen.setdefault(key, (step, logged))
        taken = step - first_step
        return (logged - first_logged) / taken * (steps - step) if taken > 0 else None


def step_lines(entry: Entry) -> list[dict[str, Any]]:
    """The steps of a run as far as they are written, evenly thinned where there are very many."""
    logs = [log for log in step_logs(entry) if log.is_file()]
    try:
        lines = list(read_step_lines(*logs).lines)
    except (OSError, ValueError, KeyError, TypeError, SecuraError):  # a line that is just being written
        return []
    every = -(-len(lines) // _MOST_POINTS) or 1
    return [line for place, line in enumerate(lines) if place % every == 0 or place == len(lines) - 1]


def _began(progress: Progress) -> float:
    return 0.0 if progress.started is None else progress.started.began


def _last_line(entry: Entry) -> dict[str, Any]:
    """The last whole line of the log; empty where there is none."""
    log = next((path for path in reversed(step_logs(entry)) if path.is_file()), None)
    if log is None:
        return {}
    try:
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _LAST_BYTES))
            lines = file.read().decode("utf-8", errors="replace").split("\n")
        for line in reversed(lines[:-1]):  # after the last line break is nothing, or what is being written
            found = parsed_json(line)
            return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}
    return {}
