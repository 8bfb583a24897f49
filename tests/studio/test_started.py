"""Processes that a studio starts: known to the next studio, stopped by a signal, never two in one folder."""

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from secura.errors import ConfigError
from secura.studio.started import Processes, Started


def wait(processes: Processes, started: Started) -> None:
    until = time.monotonic() + 60
    while processes.is_alive(started):
        assert time.monotonic() < until
        time.sleep(0.05)


def stand_in(folder: Path, script: str) -> str:
    program = folder / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return str(program)


@pytest.fixture
def sleeper(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In place of secura, a process that waits until it is asked to end, and says so."""
    waits = "trap 'echo secura: stopped by SIGTERM; exit 143' TERM; echo waiting"
    script = f"{waits}\nfor time in $(seq 1200); do sleep 0.05; done"
    monkeypatch.setattr("secura.studio.started.sys.executable", stand_in(tmp_path, script))


@pytest.fixture
def refuser(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In place of secura, a process that tells its arguments and ends as a wrong usage does."""
    script = 'echo "$@" "in $COLUMNS"\necho "secura: that cannot be; do this." >&2\nexit 3'
    monkeypatch.setattr("secura.studio.started.sys.executable", stand_in(tmp_path, script))


@pytest.mark.usefixtures("refuser")
def test_a_command_is_carried_out_and_its_last_words_are_known(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    started = processes.start("one", "run", ["train", "--out", "a b"], settings="{}\n")
    assert started.shown == "secura train --out 'a b'"
    wait(processes, started)
    assert processes.output("one").startswith("-m secura train --out a b in 100\n")
    assert processes.last_words("one") == "that cannot be; do this."
    assert processes.settings_file("one").read_text() == "{}\n"
    assert processes.going_on() == []


@pytest.mark.usefixtures("sleeper")
def test_another_studio_knows_the_process_and_can_stop_it(tmp_path: Path) -> None:
    first = Processes(tmp_path)
    started = first.start("group/one", "run", ["train"], settings="")
    second = Processes(tmp_path)
    assert second.all() == [started]
    assert second.going_on() == [started]
    while not second.output("group/one"):
        time.sleep(0.05)
    second.stop("group/one")
    wait(first, started)
    assert second.last_words("group/one") == "stopped by SIGTERM"
    stopped = second.of("group/one")
    assert stopped == replace(started, stopping=True)
    assert second.going_on() == []


@pytest.mark.usefixtures("sleeper")
def test_a_folder_has_one_process(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    started = processes.start("one", "run", ["train"], settings="first")
    with pytest.raises(ConfigError, match="one is going on already"):
        Processes(tmp_path).start("one", "run", ["train"], settings="second")
    assert processes.settings_file("one").read_text() == "first"
    processes.stop("one")
    wait(processes, started)


@pytest.mark.usefixtures("sleeper")
def test_a_process_is_of_its_own_session_so_that_ctrl_c_ends_the_studio_alone(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    started = processes.start("one", "run", ["train"], settings="")
    assert os.getsid(started.process) == started.process != os.getsid(0)
    os.kill(started.process, signal.SIGKILL)
    wait(processes, started)
    assert processes.last_words("one") == ""


@pytest.mark.usefixtures("refuser")
def test_the_number_of_a_process_that_has_ended_may_be_anothers(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    started = processes.start("one", "run", ["train"], settings="")
    wait(processes, started)
    file = tmp_path / ".studio" / "one" / "process.json"
    stored = json.loads(file.read_text()) | {"process": os.getpid()}
    file.write_text(json.dumps(stored))
    again = processes.of("one")
    assert again is not None
    assert not processes.is_alive(again)
    with pytest.raises(ConfigError, match="one is not going on"):
        processes.stop("one")


@pytest.mark.parametrize("name", ["../one", ".studio", "/tmp/one"])
def test_nothing_is_started_outside_the_folder(tmp_path: Path, name: str) -> None:
    root = tmp_path / "runs"
    with pytest.raises(ConfigError, match="no name of a run"):
        Processes(root).start(name, "run", ["train"], settings="")
    assert not root.exists()
