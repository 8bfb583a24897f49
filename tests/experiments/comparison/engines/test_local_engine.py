import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from engine_jobs import COUNTS_WHO_RUNS, SAVES_WHEN_STOPPED, appears, job

from secura.errors import ConfigError
from secura.experiments.comparison.engines.engine import Job
from secura.experiments.comparison.engines.local_engine import LocalEngine

SAYS = "import os, sys; print(os.environ.get('OMP_NUM_THREADS'), os.environ.get('CUDA_VISIBLE_DEVICES'), sys.argv[1:])"


def _codes(engine: LocalEngine, jobs: list[Job]) -> dict[str, int]:
    return {ended.job.name: ended.exit_code for ended in engine.run(jobs)}


def test_every_job_ends_with_its_own_code_and_a_crash_costs_the_others_nothing(tmp_path: Path) -> None:
    crash = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    jobs = [
        job(tmp_path, "well", SAYS, "a"),
        job(tmp_path, "badly", "raise SystemExit(3)"),
        job(tmp_path, "dies", crash),
    ]
    jobs += [job(tmp_path, "last", SAYS, "b")]
    codes = _codes(LocalEngine(workers=2, gpus=[]), jobs)
    assert codes == {"well": 0, "badly": 3, "dies": -signal.SIGSEGV, "last": 0}
    assert jobs[3].log.read_text() == "1 None ['b']\n"


def test_a_module_runs_as_the_main_module_with_its_arguments_and_its_output_in_the_log(tmp_path: Path) -> None:
    jobs = [
        Job(name=name, command=(sys.executable, "-m", "json.tool", str(tmp_path / f"{name}.json")), log=tmp_path / name)
        for name in ("whole", "torn")
    ]
    (tmp_path / "whole.json").write_text('{"a":1}')
    (tmp_path / "torn.json").write_text('{"a":')
    assert _codes(LocalEngine(workers=1, gpus=[]), jobs) == {"whole": 0, "torn": 1}
    assert jobs[0].log.read_text() == '{\n    "a": 1\n}\n'
    assert "Expecting value" in jobs[1].log.read_text()


@pytest.mark.slow  # a fresh process imports torch anew
def test_each_of_several_runs_has_a_gpu_of_its_own(tmp_path: Path) -> None:
    code = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])" + COUNTS_WHO_RUNS
    jobs = [job(tmp_path, str(number), code, str(tmp_path), str(number), "2", "60") for number in range(2)]
    assert _codes(LocalEngine(gpus=["3", "GPU-5"]), jobs) == {"0": 0, "1": 0}
    assert {each.log.read_text().split()[0] for each in jobs} == {"3", "GPU-5"}


def test_as_many_runs_as_workers_go_on_at_once_and_no_more(tmp_path: Path) -> None:
    # Each waits for the one beside it, so the first to count sees two; a third would be seen too.
    jobs = [
        job(tmp_path, str(number), COUNTS_WHO_RUNS, str(tmp_path), str(number), str(wanted), "60")
        for number, wanted in enumerate((2, 2, 4, 4))
    ]
    _codes(LocalEngine(workers=2, gpus=[]), jobs)
    assert max(int(each.log.read_text()) for each in jobs) == 2


def test_closing_lets_what_runs_save_and_starts_nothing_more(tmp_path: Path) -> None:
    running = LocalEngine(workers=2, gpus=[]).run(
        [
            job(tmp_path, "quick", "import time; time.sleep(0.5)"),
            job(tmp_path, "slow", SAVES_WHEN_STOPPED, str(tmp_path)),
            job(tmp_path, "never", SAYS),
        ]
    )
    assert next(running).job.name == "quick"
    assert appears(tmp_path / "started")
    getattr(running, "close")()  # noqa: B009 - an Iterator to the types, a generator in truth
    assert (tmp_path / "saved").read_text() == "saved"  # had it been waited for, it would have ended without
    assert not (tmp_path / "logs" / "never.log").exists()


def test_a_run_that_will_not_stop_is_killed(tmp_path: Path) -> None:
    stubborn = (
        "import pathlib, signal, sys, time; signal.signal(signal.SIGINT, signal.SIG_IGN); "
        "pathlib.Path(sys.argv[1], 'started').write_text(str(__import__('os').getpid())); time.sleep(60)"
    )
    quick = job(tmp_path, "quick", "import time; time.sleep(0.3)")
    engine = LocalEngine(workers=2, gpus=[], grace_seconds=0.2)
    running = engine.run([quick, job(tmp_path, "stubborn", stubborn, str(tmp_path))])
    next(running)
    assert appears(tmp_path / "started")
    getattr(running, "close")()  # noqa: B009
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "started").read_text()), 0)


@pytest.mark.slow
def test_where_the_engine_itself_is_killed_what_runs_saves_and_ends(tmp_path: Path) -> None:
    (tmp_path / "saves_when_stopped.py").write_text(SAVES_WHEN_STOPPED)
    script = tmp_path / "script.py"
    script.write_text(
        "import pathlib, sys\n"
        "from secura.experiments.comparison.engines.engine import Job\n"
        "from secura.experiments.comparison.engines.local_engine import LocalEngine\n"
        "if __name__ == '__main__':\n"
        "    here = pathlib.Path(sys.argv[1])\n"
        "    command = (sys.executable, '-m', 'saves_when_stopped', str(here))\n"
        "    list(LocalEngine(workers=1, gpus=[]).run([Job(name='a', command=command, log=here / 'log')]))\n"
    )
    engine = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)], env={**os.environ, "PYTHONPATH": str(tmp_path)}
    )
    try:
        assert appears(tmp_path / "started", 60)
    finally:
        engine.kill()
        engine.wait()
    assert appears(tmp_path / "saved", 20)


@pytest.mark.parametrize(
    ("workers", "gpus", "says"), [(0, [], "the number of runs at a time"), (2, ["0"], "offers 1 GPUs")]
)
def test_numbers_that_cannot_work_are_refused(workers: int, gpus: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        LocalEngine(workers=workers, gpus=gpus)
