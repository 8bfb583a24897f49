"""How far a run is, read from what lies in its folder and what became of its process."""

import json
import os
from pathlib import Path

import pytest

from secura.one_writer import one_writer
from secura.studio.progress import Watcher, step_lines
from secura.studio.started import Processes, Started

STEP = {"loss": 2.5, "grad_norm": 1.0, "learning_rate": 1e-3, "memory_mb": 100}


class Made(Processes):
    """Processes that a test makes up: what they have said, and which are alive."""

    def __init__(self, root: Path, said: str = "", *, alive: bool = False, stopping: bool = False) -> None:
        super().__init__(root)
        self.alive = alive
        folder = root / ".studio" / "one"
        folder.mkdir(parents=True)
        started = Started(
            name="one", kind="run", command=("train",), process=1, created=0.0, began=1.0, stopping=stopping
        )
        (folder / "process.json").write_text(json.dumps(vars(started)))
        (folder / "output.txt").write_text(said)

    def is_alive(self, started: Started) -> bool:
        return self.alive


def begun(root: Path, *steps: int, of: int = 10, cut: str = "") -> Path:
    folder = root / "one"
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(f"training: {{steps: {of}}}\n")
    (folder / "log.jsonl").write_text("".join(json.dumps({"step": step, **STEP}) + "\n" for step in steps) + cut)
    return folder


def state(processes: Processes, root: Path) -> str:
    progress = Watcher(root, processes).of("one")
    assert progress is not None
    return progress.state


def test_a_process_is_checking_going_on_finishing_and_done(tmp_path: Path) -> None:
    processes = Made(tmp_path, alive=True)
    assert state(processes, tmp_path) == "checking"
    begun(tmp_path)
    assert state(processes, tmp_path) == "going on"
    begun(tmp_path, 1, 2)
    assert state(processes, tmp_path) == "going on"
    folder = begun(tmp_path, 9, 10)
    assert state(processes, tmp_path) == "finishing"
    (folder / "retention.json").write_text("{}")
    processes.alive = False
    assert state(processes, tmp_path) == "done"


@pytest.mark.parametrize(
    ("said", "stopping", "is_begun", "expected"),
    [
        ("secura: stopped by SIGTERM after step 3 of 10, saved in x\n", True, True, "stopped"),
        ("secura: stopped by SIGHUP after step 3 of 10, saved in x\n", False, True, "stopped"),
        ("secura: the loss is not a number.\n", False, True, "failed"),
        ("step 3/10\n", False, True, "failed"),
        ("secura: x.jsonl: no such file.\n", False, False, "refused"),
        ("", False, False, "refused"),
        ("", True, False, "stopped"),
    ],
)
def test_a_process_that_has_ended_has_stopped_failed_or_never_begun(
    said: str, stopping: bool, is_begun: bool, expected: str, tmp_path: Path
) -> None:
    processes = Made(tmp_path, said, stopping=stopping)
    if is_begun:
        begun(tmp_path, 1, 2, 3)
    progress = Watcher(tmp_path, processes).of("one")
    assert progress is not None
    assert progress.state == expected
    assert progress.can_resume == is_begun
    assert progress.said.startswith(said.removeprefix("secura: ").strip() if "secura: " in said else progress.said)
    assert progress.said or expected == "stopped"


def test_a_run_that_was_asked_to_stop_is_stopping_until_it_has_ended(tmp_path: Path) -> None:
    processes = Made(tmp_path, alive=True, stopping=True)
    begun(tmp_path, 1)
    assert state(processes, tmp_path) == "stopping"


def test_a_folder_that_another_process_holds_is_going_on_elsewhere(tmp_path: Path) -> None:
    begun(tmp_path, 1)
    processes = Processes(tmp_path)
    assert state(processes, tmp_path) == "stopped"
    with one_writer(tmp_path / "one"):
        progress = Watcher(tmp_path, processes).of("one")
        assert progress is not None
        assert (progress.state, progress.can_stop, progress.can_resume) == ("elsewhere", False, False)


def test_the_last_whole_line_of_the_log_is_the_step(tmp_path: Path) -> None:
    begun(tmp_path, 1, 2, cut='{"step": 3, "lo')
    progress = Watcher(tmp_path, Made(tmp_path, alive=True)).of("one")
    assert progress is not None
    assert (progress.step, progress.steps, progress.loss) == (2, 10, 2.5)


def test_the_time_that_is_left_goes_by_the_steps_seen(tmp_path: Path) -> None:
    watcher = Watcher(tmp_path, Made(tmp_path, alive=True))
    for step, second in ((2, 100.0), (4, 110.0)):
        os.utime(begun(tmp_path, step) / "log.jsonl", (second, second))
        progress = watcher.of("one")
    assert progress is not None
    assert progress.seconds_left == 30.0  # 5 seconds a step, 6 steps


def test_what_a_page_shows_has_another_mark_once_it_changes(tmp_path: Path) -> None:
    processes = Made(tmp_path, alive=True)
    watcher = Watcher(tmp_path, processes)
    marks = []
    for change in (
        lambda: None,
        lambda: begun(tmp_path, 1),
        lambda: begun(tmp_path, 1, 2),
        lambda: (tmp_path / ".studio" / "one" / "output.txt").write_text("more"),
        lambda: setattr(processes, "alive", False),
    ):
        change()
        marks.append((watcher.mark("one"), watcher.mark("one")))
    assert all(first == second for first, second in marks)
    assert len({first for first, _ in marks}) == 5


def test_a_long_log_is_thinned_and_keeps_its_last_step(tmp_path: Path) -> None:
    begun(tmp_path, *range(1, 4_001))
    progress = Watcher(tmp_path, Processes(tmp_path)).of("one")
    assert progress is not None
    lines = step_lines(progress.entry)
    assert len(lines) <= 1_500
    assert (lines[0]["step"], lines[-1]["step"]) == (1, 4_000)


def test_what_goes_on_comes_first_and_what_has_begun_nothing_is_listed(tmp_path: Path) -> None:
    (tmp_path / "older").mkdir()
    (tmp_path / "older" / "config.yaml").write_text("{}")
    watcher = Watcher(tmp_path, Made(tmp_path, alive=True))
    assert [(each.name, each.state) for each in watcher.all()] == [("one", "checking"), ("older", "stopped")]
