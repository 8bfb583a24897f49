"""Runs as array jobs of a Slurm cluster, submitted through submitit.

What Slurm queued goes on when the terminal closes. The next start of the same grid finds what
is still queued or running by `submitted.json` and waits for it, instead of queueing it twice.
"""

import getpass
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from secura.errors import ConfigError
from secura.experiments.comparison.engines.command_line import GRACE_SECONDS, RunningCommand, append_to_log
from secura.experiments.comparison.engines.engine import Ended, Job
from secura.json_text import read_json
from secura.whole_files import write_json

SUBMITTED_FILE = "submitted.json"
"""In the engine's folder: the Slurm job of each run that has not been seen to end."""

_POLL_SECONDS = 1.0
_LOOK_SECONDS = 20.0
"""Between two questions to the scheduler, which many users share."""
_LONGEST_ARRAY = 1000
"""Slurm's default MaxArraySize is 1001."""


@dataclass(frozen=True, kw_only=True)
class SlurmSettings:
    """What each run asks of the cluster."""

    partition: str | None = None
    """Partition; None is the cluster's default."""
    account: str | None = None
    """Account to charge; None is the user's default."""
    minutes: int = 24 * 60
    """Wall-clock limit of one run, in minutes; a run that reaches it is requeued and goes on."""
    cpus: int = 4
    """CPU cores."""
    gpus: int = 1
    """GPUs; 0 for none."""
    memory_gb: float | None = None
    """Main memory in GB; None is the partition's default."""
    at_once: int = 8
    """At most this many runs at a time, the throttle of the array."""
    time_limits: int = 3
    """How often a run may reach its wall-clock limit and be requeued; preemption does not count."""
    signal_seconds: int = 90
    """How long before its end a run is told to save."""
    setup: Sequence[str] = ()
    """Shell lines before the run, such as `module load cuda`."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Any other option of sbatch, such as {"constraint": "a100"}."""

    def __post_init__(self) -> None:
        for name, least in (("minutes", 1), ("cpus", 1), ("gpus", 0), ("at_once", 1), ("time_limits", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"slurm {name} is {getattr(self, name)}; it is at least {least}.")
        if self.memory_gb is not None and self.memory_gb <= 0:
            raise ConfigError(f"slurm memory_gb is {self.memory_gb}; it is above 0.")
        if self.signal_seconds <= GRACE_SECONDS:
            raise ConfigError(
                f"slurm signal_seconds is {self.signal_seconds}, but a run may take {GRACE_SECONDS:g} seconds to "
                "save; give it more."
            )


class SlurmEngine:
    """Carries out jobs on the Slurm cluster that this machine can submit to; an `Engine`.

    The folder, the grid's folder and the virtual environment must be on storage that the nodes
    share. submitit hands each node its command line as a pickle in `folder`, which therefore
    must be writable by nobody else.
    """

    def __init__(self, *, folder: Path, settings: SlurmSettings | None = None, cluster: str = "slurm") -> None:
        """Say where, and what a run asks for.

        Args:
            folder: takes what submitit and Slurm write: batch files, their logs, exit codes.
            settings: what each run asks for; None is the defaults.
            cluster: submitit's name of the scheduler; `local` carries out on this machine by the
                same path, without queue, limits or throttle.

        Raises:
            ConfigError: where submitit is not installed, or this machine has no Slurm.
        """
        self.folder = folder.absolute()
        self.settings = settings or SlurmSettings()
        self.cluster = cluster
        self._executor = self._made_executor()
        self._next_look = 0.0

    def run(self, jobs: Sequence[Job]) -> Iterator[Ended]:
        """Carry out the jobs; yields each as it ends. Closing the iterator cancels what is left."""
        jobs = [_absolute(job) for job in jobs]
        running = self._still_running(jobs)
        fresh = iter([job for job in jobs if job.name not in {one.name for one, _ in running}])
        finished = False
        try:
            while True:
                if len(running) < _LONGEST_ARRAY:
                    running += self._submit(list(islice(fresh, _LONGEST_ARRAY - len(running))))
                    self._write_down(running)
                if not running:
                    break
                for one in self._that_ended(running):
                    running.remove(one)
                    self._write_down(running)
                    yield _ended(*one)
                time.sleep(_POLL_SECONDS)
            finished = True
        finally:
            if not finished:
                for _, submitted in running:
                    submitted.cancel(check=False)
                self._write_down([])

    def _that_ended(self, running: Sequence[tuple[Job, Any]]) -> list[tuple[Job, Any]]:
        """Those that left an exit code, and those that Slurm no longer knows."""
        if self.cluster != "slurm":
            return [pair for pair in running if pair[1].done()]
        ended = [pair for pair in running if pair[1].paths.result_pickle.exists()]
        if time.monotonic() < self._next_look:
            return ended
        self._next_look = time.monotonic() + _LOOK_SECONDS
        queued = queued_ids()
        if queued is None:  # the scheduler is busy or restarts; what runs goes on without it
            return ended
        return [pair for pair in running if pair in ended or pair[1].job_id not in queued]

    def _made_executor(self) -> Any:
        try:
            import submitit  # pyright: ignore[reportMissingImports]  # an extra
        except ImportError as problem:
            raise ConfigError("engine slurm needs the package submitit; pip install 'secura[slurm]'.") from problem
        settings = self.settings
        limits = {f"{self.cluster}_max_num_timeout": settings.time_limits}
        try:
            executor = submitit.AutoExecutor(self.folder / "%j", cluster=self.cluster, **limits)
        except RuntimeError as problem:
            raise ConfigError(
                "engine slurm: this machine has no Slurm (srun is not found); start the grid on a login node, or "
                "choose another engine."
            ) from problem
        parameters: dict[str, Any] = {
            "name": "secura",
            "timeout_min": settings.minutes,
            "cpus_per_task": settings.cpus,
            "nodes": 1,
            "tasks_per_node": 1,
            "stderr_to_stdout": True,
            "slurm_partition": settings.partition,
            "slurm_account": settings.account,
            "slurm_array_parallelism": settings.at_once,
            "slurm_signal_delay_s": settings.signal_seconds,
            "slurm_setup": list(settings.setup) or None,
            # Without `requeue` a cluster whose default is not to requeue ends a preempted run for good.
            "slurm_additional_parameters": {"requeue": True, **settings.options},
        }
        if settings.gpus:
            parameters["gpus_per_node"] = settings.gpus
        if settings.memory_gb is not None:
            parameters["mem_gb"] = settings.memory_gb
        executor.update_parameters(**parameters)
        return executor

    def _submit(self, jobs: Sequence[Job]) -> list[tuple[Job, Any]]:
        if not jobs:
            return []
        for job in jobs:
            job.log.parent.mkdir(parents=True, exist_ok=True)
        command = RequeuedCommand(folder=Path.cwd(), settings=self.settings)
        return list(zip(jobs, self._executor.map_array(command, jobs), strict=True))

    def _still_running(self, jobs: Sequence[Job]) -> list[tuple[Job, Any]]:
        """Jobs that an earlier start queued, and that have not ended since."""
        path = self.folder / SUBMITTED_FILE
        if self.cluster != "slurm" or not path.is_file():
            return []
        from submitit import SlurmJob  # pyright: ignore[reportMissingImports]  # an extra

        known = read_json(path)
        queued = queued_ids()
        if queued is None:
            raise ConfigError(
                f"{path} names runs that may still be queued, but squeue does not answer; wait for the scheduler, or "
                "delete that file if none of them is left."
            )
        return [(job, SlurmJob(self.folder / "%j", known[job.name])) for job in jobs if known.get(job.name) in queued]

    def _write_down(self, running: Sequence[tuple[Job, Any]]) -> None:
        write_json(self.folder / SUBMITTED_FILE, {job.name: submitted.job_id for job, submitted in running})


def queued_ids() -> set[str] | None:
    """Every job of this user that waits or runs, such as `17` or `17_3`; None where squeue gives no answer.

    squeue and not submitit's sacct: a cluster may have no accounting.
    """
    asked = ["squeue", "--noheader", "--array", "--user", getpass.getuser(), "--format", "%i"]
    try:
        return set(subprocess.run(asked, capture_output=True, text=True, timeout=60, check=True).stdout.split())
    except (OSError, subprocess.SubprocessError):
        return None


@dataclass
class RequeuedCommand:
    """What a node does: carry out one command line, and have it requeued when Slurm wants the node back.

    `checkpoint` is submitit's name for what happens then. The run saves, and the requeued job
    starts the same command line, which goes on from there.
    """

    folder: Path
    """The working directory."""
    settings: SlurmSettings
    """How long before its end a run is told to save."""
    _running: RunningCommand | None = None

    def __call__(self, job: Job) -> int:
        """Carry out the command line; returns its exit code."""
        with RunningCommand(job.command, job.log, folder=self.folder) as running:
            self._running = running
            code = running.wait()
        self._running = None
        if code in (-signal.SIGTERM, -signal.SIGUSR2):
            # Slurm signals every process of a job. If this one was meant too, the handler of the
            # same signal requeues the job, and this function never returns.
            time.sleep(self.settings.signal_seconds)
        return code

    def checkpoint(self, job: Job) -> Any:
        """Let the command save and end; then the same again."""
        from submitit.helpers import DelayedSubmission  # pyright: ignore[reportMissingImports]  # an extra

        if self._running is not None:
            self._running.stop()
        append_to_log(job.log, "Slurm: stopped to be requeued")
        return DelayedSubmission(RequeuedCommand(folder=self.folder, settings=self.settings), job)


def _absolute(job: Job) -> Job:
    return Job(name=job.name, command=job.command, log=job.log.absolute())


def _ended(job: Job, submitted: Any) -> Ended:
    """The exit code that came back; 1, and the reason in the log, where none did."""
    from submitit.core.utils import FailedJobError, UncompletedJobError  # pyright: ignore[reportMissingImports]  # an extra

    if not submitted.paths.result_pickle.exists():
        append_to_log(job.log, f"Slurm: ended without an exit code; see {submitted.paths.stdout}")
        return Ended(job=job, exit_code=1)
    try:
        return Ended(job=job, exit_code=submitted.result())
    except (FailedJobError, UncompletedJobError) as problem:
        append_to_log(job.log, f"Slurm: {problem}")
        return Ended(job=job, exit_code=1)
