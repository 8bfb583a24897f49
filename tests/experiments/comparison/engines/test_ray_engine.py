import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_jobs import COUNTS_WHO_RUNS, SAVES_WHEN_STOPPED, appears, job

from secura.errors import ConfigError
from secura.experiments.comparison.engines.ray_engine import RayEngine


@pytest.mark.parametrize("settings", [{"workers": 0}, {"cpus": 0}, {"gpus": -1}, {"gpus": 1.5}])
def test_a_number_that_cannot_work_is_refused_by_name(settings: dict[str, float]) -> None:
    (name,) = settings
    with pytest.raises(ConfigError, match=f"^{name} is"):
        RayEngine(**settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a real Ray cluster of one node and two CPUs, started for these tests."""
    pytest.importorskip("ray", reason="ray is not installed; `make test-all` installs it")
    # A short path: Ray puts sockets into it, whose names may have about 100 letters.
    folder, port = f"/tmp/secura-ray-{os.getpid()}", 20000 + os.getpid() % 10000
    node = subprocess.Popen(
        [
            *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--disable-usage-stats"),
            *(f"--temp-dir={folder}", f"--port={port}", "--node-ip-address=127.0.0.1", "--include-dashboard=false"),
            *("--num-cpus=2", "--num-gpus=0", "--object-store-memory=100000000"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert node.stdout is not None
    said = []
    for line in node.stdout:
        said.append(line)
        if "Ray runtime started" in line:
            break
    else:
        pytest.fail("ray start ended: " + "".join(said))
    yield f"127.0.0.1:{port}"
    node.terminate()
    node.wait(timeout=60)


@pytest.mark.slow
def test_logs_and_exit_codes_come_back(cluster: str, tmp_path: Path) -> None:
    jobs = [job(tmp_path, f"job-{code}", f"import sys; print('job {code}'); sys.exit({code})") for code in range(4)]
    ended = list(RayEngine(address=cluster).run(jobs))
    assert {one.job.name: one.exit_code for one in ended} == {f"job-{code}": code for code in range(4)}
    assert [one.log.read_text() for one in jobs] == [f"job {code}\n" for code in range(4)]


@pytest.mark.slow
def test_no_more_jobs_run_at_a_time_than_there_are_workers(cluster: str, tmp_path: Path) -> None:
    jobs = [job(tmp_path, name, COUNTS_WHO_RUNS, str(tmp_path), name, "3", "1") for name in ("a", "b", "c")]
    assert [one.exit_code for one in RayEngine(address=cluster, workers=1).run(jobs)] == [0, 0, 0]
    assert [one.log.read_text() for one in jobs] == ["1\n"] * 3


@pytest.mark.slow
def test_closing_the_iterator_lets_what_runs_save_and_drops_what_is_queued(cluster: str, tmp_path: Path) -> None:
    short = job(tmp_path, "short", "pass")
    long = job(tmp_path, "long", SAVES_WHEN_STOPPED, str(tmp_path))
    queued = job(tmp_path, "queued", "pass")
    results = RayEngine(address=cluster, cpus=1, workers=3).run([short, long, queued])
    assert next(results).job.name in ("short", "queued")
    assert appears(tmp_path / "started")
    results.close()  # type: ignore[attr-defined]
    assert (tmp_path / "saved").read_text() == "saved"


@pytest.mark.slow
def test_a_command_that_is_killed_gives_the_number_of_its_signal(cluster: str, tmp_path: Path) -> None:
    killed = job(tmp_path, "killed", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    (ended,) = RayEngine(address=cluster).run([killed])
    assert ended.exit_code == -9


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced_and_its_job_started_again(cluster: str, tmp_path: Path) -> None:
    code = (
        "import os, pathlib, signal, sys, time\n"
        "first = pathlib.Path(sys.argv[1])\n"
        "if not first.exists():\n"
        "    first.write_text('tried')\n"
        "    os.kill(os.getppid(), signal.SIGKILL)\n"
        "    time.sleep(60)  # until the death of its worker ends it\n"
        "print('second try')\n"
    )
    restarted = job(tmp_path, "restarted", code, str(tmp_path / "first"))
    (ended,) = RayEngine(address=cluster).run([restarted])
    assert ended.exit_code == 0
    assert restarted.log.read_text() == "second try\n"


@pytest.mark.slow
def test_what_no_node_has_room_for_is_refused_before_anything_runs(cluster: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a job takes 1 CPUs \+ 1 GPUs, but the nodes .* have 2 \+ 0"):
        next(iter(RayEngine(address=cluster, gpus=1).run([job(tmp_path, "one", "pass")])))


@pytest.mark.slow
def test_a_node_that_does_not_see_the_interpreter_is_named(cluster: str, tmp_path: Path) -> None:
    wanted = job(tmp_path, "one", "pass")
    elsewhere = type(wanted)(name="one", command=("/no/python", "-c", "pass"), log=wanted.log)
    with pytest.raises(ConfigError, match="does not see /no/python"):
        next(iter(RayEngine(address=cluster).run([elsewhere])))


@pytest.mark.slow
def test_where_no_cluster_answers_the_error_says_how_to_start_one(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed; `make test-all` installs it")
    with pytest.raises(ConfigError, match="ray start --head"):
        next(iter(RayEngine(address="127.0.0.1:1").run([job(tmp_path, "one", "pass")])))
