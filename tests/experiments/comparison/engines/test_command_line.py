import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

from engine_jobs import SAVES_WHEN_STOPPED, appears, becomes_true, job

from secura.experiments.comparison.engines.command_line import RunningCommand, append_to_log, missing_here


def test_the_exit_code_comes_back_and_all_output_lies_in_the_log(tmp_path: Path) -> None:
    wanted = job(tmp_path, "one", "import sys; print('out'); print('err', file=sys.stderr); sys.exit(7)")
    with RunningCommand(wanted.command, wanted.log, folder=tmp_path) as running:
        assert running.wait() == 7
    assert sorted(wanted.log.read_text().split()) == ["err", "out"]


def test_a_second_start_goes_on_in_the_same_log(tmp_path: Path) -> None:
    wanted = job(tmp_path, "one", "print('again')")
    for _ in range(2):
        with RunningCommand(wanted.command, wanted.log, folder=tmp_path) as running:
            running.wait()
    append_to_log(wanted.log, "and a word of the engine's")
    assert wanted.log.read_text() == "again\nagain\nand a word of the engine's\n"


def test_a_command_works_in_the_folder_it_was_given(tmp_path: Path) -> None:
    wanted = job(tmp_path, "one", "import os; print(os.getcwd())")
    with RunningCommand(wanted.command, wanted.log, folder=tmp_path) as running:
        running.wait()
    assert wanted.log.read_text().strip() == str(tmp_path)


def test_a_stopped_command_can_save_before_it_ends(tmp_path: Path) -> None:
    wanted = job(tmp_path, "one", SAVES_WHEN_STOPPED, str(tmp_path))
    with RunningCommand(wanted.command, wanted.log, folder=tmp_path) as running:
        assert appears(tmp_path / "started")
    assert (tmp_path / "saved").exists()
    assert running.wait() == 5


def test_a_worker_that_blocks_sigint_does_not_keep_its_command_from_saving(tmp_path: Path) -> None:
    wanted = job(tmp_path, "one", SAVES_WHEN_STOPPED, str(tmp_path))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        with RunningCommand(wanted.command, wanted.log, folder=tmp_path, grace_seconds=5) as running:
            assert appears(tmp_path / "started")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert running.wait() == 5


def test_a_command_that_will_not_end_is_ended_with_all_it_started(tmp_path: Path) -> None:
    code = textwrap.dedent(
        """
        import pathlib, signal, subprocess, sys, time
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
        pathlib.Path(sys.argv[1], "child.partial").write_text(str(child.pid))
        pathlib.Path(sys.argv[1], "child.partial").rename(pathlib.Path(sys.argv[1], "child"))
        time.sleep(120)
        """
    )
    wanted = job(tmp_path, "one", code, str(tmp_path))
    with RunningCommand(wanted.command, wanted.log, folder=tmp_path, grace_seconds=0.2) as running:
        assert appears(tmp_path / "child")
    assert running.wait() == -signal.SIGKILL
    assert becomes_true(lambda: _ended(int((tmp_path / "child").read_text())))


def test_a_worker_that_is_killed_takes_its_command_with_it(tmp_path: Path) -> None:
    wanted = job(tmp_path, "one", "import os, time; print(os.getpid(), flush=True); time.sleep(120)")
    worker_code = textwrap.dedent(
        f"""
        from pathlib import Path
        from secura.experiments.comparison.engines.command_line import RunningCommand
        with RunningCommand({wanted.command!r}, Path({str(wanted.log)!r}), folder=Path({str(tmp_path)!r})) as running:
            running.wait()
        """
    )
    worker = subprocess.Popen([sys.executable, "-c", worker_code])
    assert becomes_true(lambda: wanted.log.is_file() and wanted.log.read_text().endswith("\n"))
    worker.kill()
    worker.wait()
    assert becomes_true(lambda: _ended(int(wanted.log.read_text())))


def test_what_a_machine_does_not_see_is_named(tmp_path: Path) -> None:
    assert missing_here(tmp_path, tmp_path, sys.executable) is None
    assert missing_here(tmp_path, tmp_path / "logs", sys.executable) == str(tmp_path / "logs")
    assert missing_here(tmp_path, tmp_path, "/no/python") == "/no/python"


def _ended(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
