"""Processes that a studio has started: each is a command of secura that writes a folder, and outlives the studio.

    DIR/.studio/NAME/
    ├── settings.yaml   what the form said; for a run, what `secura train` reads
    ├── process.json    the command, the process and when it began
    └── output.txt      what it said

Whatever a studio knows of a process stands there, so another one begun later knows it too.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil  # a dependency of accelerate, hence always there

from secura.errors import ConfigError
from secura.json_text import read_json
from secura.one_writer import one_writer
from secura.studio.entries import Kind, folder_called
from secura.whole_files import write_json, write_text

HIDDEN_FOLDER = ".studio"
SETTINGS_FILE = "settings.yaml"
_PROCESS_FILE = "process.json"
_OUTPUT_FILE = "output.txt"
_TAIL_BYTES = 20_000


@dataclass(frozen=True, kw_only=True)
class Started:
    """A process, as it was started."""

    name: str
    """Of the folder it writes."""
    kind: Kind
    """What that will hold."""
    command: Sequence[str]
    """The words after `secura`."""
    process: int
    """Its number."""
    created: float
    """When the system made it, in seconds since 1970: numbers are given again."""
    began: float
    """When it was started, in seconds since 1970."""
    stopping: bool = False
    """Whether it was asked to stop."""

    @property
    def shown(self) -> str:
        """The command, as a terminal takes it."""
        return shlex.join(["secura", *self.command])


class Processes:
    """The processes that were started for the folders below another one."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._one_at_a_time = threading.Lock()

    def start(self, name: str, kind: Kind, command: Sequence[str], settings: str | None = None) -> Started:
        """Start a command that writes a folder.

        Args:
            name: of the folder.
            kind: what it will hold.
            command: the words after `secura`.
            settings: what is written to its `settings.yaml` first; None leaves what is there.

        Raises:
            ConfigError: if one that was started before still writes there.
        """
        own = self._folder(name)
        with self._one_at_a_time, one_writer(own):
            before = self.of(name)
            if before is not None and self.is_alive(before):
                raise ConfigError(f"{name} is going on already; stop it first, or take another name.")
            if settings is not None:
                write_text(own / SETTINGS_FILE, settings)
            with (own / _OUTPUT_FILE).open("ab" if settings is None else "wb") as output:
                child = subprocess.Popen(
                    [sys.executable, "-m", "secura", *command],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    # A session of its own: Ctrl-C in the studio's terminal, and its end, are not the run's.
                    start_new_session=True,
                    env=os.environ | {"COLUMNS": "100", "PYTHONUNBUFFERED": "1"},
                )
            self._children[child.pid] = child
            started = Started(
                name=name,
                kind=kind,
                command=tuple(command),
                process=child.pid,
                created=_created(child.pid) or 0.0,
                began=time.time(),
            )
            write_json(own / _PROCESS_FILE, asdict(started))
        return started

    def of(self, name: str) -> Started | None:
        """The process that was last started for a folder; None where there was none."""
        return _read(self._folder(name) / _PROCESS_FILE)

    def all(self) -> list[Started]:
        """The last process of every folder."""
        files = sorted((self._root / HIDDEN_FOLDER).glob(f"**/{_PROCESS_FILE}"))
        return [started for file in files if (started := _read(file)) is not None]

    def going_on(self) -> list[Started]:
        """The processes that have not ended."""
        return [started for started in self.all() if self.is_alive(started)]

    def is_alive(self, started: Started) -> bool:
        """Whether a process has not ended."""
        child = self._children.get(started.process)
        if child is not None and child.poll() is not None:  # also lets go of one that has ended
            del self._children[started.process]
        return _created(started.process) == started.created

    def stop(self, name: str) -> None:
        """Ask a process to save and stop; asked again, it stops without saving.

        Raises:
            ConfigError: if none is there that was started here.
        """
        started = self.of(name)
        if started is None or not self.is_alive(started):
            raise ConfigError(f"{name} is not going on, or was not started here; stop it where it was started.")
        write_json(self._folder(name) / _PROCESS_FILE, asdict(replace(started, stopping=True)))
        os.kill(started.process, signal.SIGTERM)

    def output(self, name: str) -> str:
        """The end of what a process has said."""
        file = self._folder(name) / _OUTPUT_FILE
        if not file.is_file():
            return ""
        with file.open("rb") as said:
            said.seek(max(0, file.stat().st_size - _TAIL_BYTES))
            return said.read().decode("utf-8", errors="replace")

    def last_words(self, name: str) -> str:
        """The sentence that a process ended with, such as why it could not begin; empty where it said none."""
        lines = [line for line in self.output(name).splitlines() if line.strip()]
        last = lines[-1] if lines else ""
        return re.sub(r"^secura: (process \d+: )?", "", last) if last.startswith("secura: ") else ""

    def settings_file(self, name: str) -> Path:
        """Where what the form said is kept."""
        return self._folder(name) / SETTINGS_FILE

    def _folder(self, name: str) -> Path:
        if folder_called(self._root, name) is None:
            raise ConfigError(f"{name!r} is no name of a run; use letters, digits, '_', '-' and '.'.")
        return self._root / HIDDEN_FOLDER / name


def _created(process: int) -> float | None:
    """When the process of a number was made; None where none is there, or one that has ended."""
    try:
        found = psutil.Process(process)
        return None if found.status() == psutil.STATUS_ZOMBIE else found.create_time()
    except psutil.Error:
        return None


def _read(file: Path) -> Started | None:
    try:
        stored: dict[str, Any] = read_json(file)
        return Started(**{**stored, "command": tuple(stored["command"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None
