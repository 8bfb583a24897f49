"""submitit's own local executor takes the queue's place by default; a real Slurm where one is installed."""

import shutil
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from engine_jobs import COUNTS_WHO_RUNS, GOES_ON_WHEN_REQUEUED, SAVES_WHEN_STOPPED, appears, becomes_true, job

from secura.errors import ConfigError
from secura.experiments.comparison.engines.slurm_engine import SlurmEngine, SlurmSettings, queued_ids

ON_CPU = SlurmSettings(gpus=0, cpus=1, minutes=5)


@pytest.fixture
def local(tmp_path: Path) -> SlurmEngine:
    pytest.importorskip("submitit", reason="submitit is not installed; `make test-all` installs it")
    return SlurmEngine(folder=tmp_path / "slurm", settings=ON_CPU, cluster="local")


@pytest.mark.parametrize(
    ("setting", "value"), [("minutes", 0), ("cpus", 0), ("gpus", -1), ("at_once", 0), ("memory_gb", 0)]
)
def test_a_setting_that_cannot_work_is_refused_by_name(setting: str, value: int) -> None:
    with pytest.raises(ConfigError, match=f"^slurm {setting} is {value}"):
        SlurmSettings(**{setting: value})  # type: ignore[arg-type]


def test_a_run_needs_time_to_save_before_slurm_ends_it() -> None:
    with pytest.raises(ConfigError, match="signal_seconds is 10"):
        SlurmSettings(signal_seconds=10)


@pytest.mark.skipif(shutil.which("srun") is not None, reason="this machine has a Slurm")
def test_a_machine_without_slurm_is_told_where_to_start_the_grid(tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed; `make test-all` installs it")
    with pytest.raises(ConfigError, match="login node"):
        SlurmEngine(folder=tmp_path)


@pytest.mark.slow
def test_logs_and_exit_codes_come_back(local: SlurmEngine, tmp_path: Path) -> None:
    jobs = [job(tmp_path, f"job-{code}", f"import sys; print('job {code}'); sys.exit({code})") for code in range(3)]
    ended = list(local.run(jobs))
    assert {one.job.name: one.exit_code for one in ended} == {f"job-{code}": code for code in range(3)}
    assert [one.log.read_text() for one in jobs] == [f"job {code}\n" for code in range(3)]


@pytest.mark.slow
def test_closing_the_iterator_ends_what_runs(local: SlurmEngine, tmp_path: Path) -> None:
    jobs = [job(tmp_path, "short", "pass"), job(tmp_path, "long", SAVES_WHEN_STOPPED, str(tmp_path))]
    results = local.run(jobs)
    assert next(results).job.name == "short"
    assert appears(tmp_path / "started")
    results.close()  # type: ignore[attr-defined]
    assert appears(tmp_path / "saved")


@pytest.mark.slow
def test_a_job_that_slurm_wants_to_end_saves_and_is_started_again(tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed; `make test-all` installs it")
    # submitit's controller sends SIGUSR2 30 seconds before the limit, as Slurm does.
    settings = replace(ON_CPU, minutes=1)
    wanted = job(tmp_path, "one", GOES_ON_WHEN_REQUEUED, str(tmp_path))
    (ended,) = SlurmEngine(folder=tmp_path / "slurm", settings=settings, cluster="local").run([wanted])
    assert ended.exit_code == 0
    assert wanted.log.read_text() == "Slurm: stopped to be requeued\ngoing on from what was saved\n"


@pytest.mark.slow
def test_a_node_that_cannot_start_the_command_ends_the_job_with_the_reason_in_its_log(
    local: SlurmEngine, tmp_path: Path
) -> None:
    wanted = replace(job(tmp_path, "one", "pass"), command=("/no/python", "-c", "pass"))
    (ended,) = local.run([wanted])
    assert ended.exit_code == 1
    assert "No such file or directory: '/no/python'" in wanted.log.read_text()


@pytest.fixture
def slurm() -> None:
    """Skips where no Slurm answers."""
    pytest.importorskip("submitit", reason="submitit is not installed; `make test-all` installs it")
    if shutil.which("sbatch") is None or queued_ids() is None:
        pytest.skip("no Slurm on this machine")


@pytest.mark.slow
@pytest.mark.usefixtures("slurm")
def test_a_real_slurm_carries_out_an_array_with_its_throttle(tmp_path: Path) -> None:
    code = COUNTS_WHO_RUNS + "sys.exit(int(name))"
    jobs = [job(tmp_path, f"job-{number}", code, str(tmp_path), str(number), "3", "1") for number in range(3)]
    engine = SlurmEngine(folder=tmp_path / "slurm", settings=replace(ON_CPU, at_once=1))
    assert {one.job.name: one.exit_code for one in engine.run(jobs)} == {"job-0": 0, "job-1": 1, "job-2": 2}
    assert [one.log.read_text() for one in jobs] == ["1\n"] * 3


@pytest.mark.slow
@pytest.mark.usefixtures("slurm")
def test_a_real_slurm_cancels_what_runs_when_the_iterator_is_closed(tmp_path: Path) -> None:
    jobs = [job(tmp_path, "short", "pass"), job(tmp_path, "long", SAVES_WHEN_STOPPED, str(tmp_path))]
    results = SlurmEngine(folder=tmp_path / "slurm", settings=ON_CPU).run(jobs)
    assert next(results).job.name == "short"
    assert appears(tmp_path / "started")
    results.close()  # type: ignore[attr-defined]
    assert becomes_true(lambda: not queued_ids(), 60)


@pytest.mark.slow
@pytest.mark.usefixtures("slurm")
@pytest.mark.timeout(600)
def test_a_run_that_a_real_slurm_preempts_saves_and_goes_on_in_the_requeued_job(tmp_path: Path) -> None:
    wanted = job(tmp_path, "one", GOES_ON_WHEN_REQUEUED, str(tmp_path))
    results = SlurmEngine(folder=tmp_path / "slurm", settings=ON_CPU).run([wanted])

    def preempt() -> None:
        if appears(tmp_path / "started", 60):
            (number,) = queued_ids() or {""}
            subprocess.run(["scancel", "--signal=USR2", number], check=True)

    threading.Thread(target=preempt).start()
    assert [one.exit_code for one in results] == [0]
    assert wanted.log.read_text() == "Slurm: stopped to be requeued\ngoing on from what was saved\n"


@pytest.mark.slow
@pytest.mark.usefixtures("slurm")
def test_a_run_that_is_still_queued_is_waited_for_by_the_next_start_and_not_queued_again(tmp_path: Path) -> None:
    wanted = job(tmp_path, "one", "import time; print('once'); time.sleep(8)")
    first = SlurmEngine(folder=tmp_path / "slurm", settings=ON_CPU)
    first._write_down(first._submit([wanted]))  # as if its terminal had died here
    assert [one.exit_code for one in SlurmEngine(folder=tmp_path / "slurm", settings=ON_CPU).run([wanted])] == [0]
    assert wanted.log.read_text() == "once\n"


@pytest.mark.slow
@pytest.mark.usefixtures("slurm")
def test_a_run_that_vanishes_from_a_real_slurm_ends_with_1(tmp_path: Path) -> None:
    wanted = job(tmp_path, "one", SAVES_WHEN_STOPPED, str(tmp_path))
    results = SlurmEngine(folder=tmp_path / "slurm", settings=ON_CPU).run([wanted])

    def remove() -> None:
        if appears(tmp_path / "started", 60):
            (number,) = queued_ids() or {""}
            subprocess.run(["scancel", "--signal=KILL", number], check=True)

    threading.Thread(target=remove).start()
    assert [one.exit_code for one in results] == [1]
    assert "ended without an exit code" in wanted.log.read_text()
