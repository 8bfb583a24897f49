"""Runs on this machine, several at a time, each in a process of its own.

Importing torch, transformers and PEFT takes longer than many a small run. So on a CPU under Linux
one process imports them once and every run is a fork of it (`forkserver`); a run that crashes takes
nothing with it. With GPUs each run is a fresh process: CUDA does not survive a fork.
"""

import multiprocessing
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path

from secura.errors import ConfigError
from secura.experiments.comparison.engines.command_line import GRACE_SECONDS
from secura.experiments.comparison.engines.engine import Ended, Job


class LocalEngine:
    """Carries out jobs on this machine; an `Engine`."""

    def __init__(
        self, *, workers: int | None = None, gpus: Sequence[str] | None = None, grace_seconds: float = GRACE_SECONDS
    ) -> None:
        """Say how many at a time.

        Args:
            workers: jobs at a time; None is one a GPU where there are any, else one a core.
            gpus: the GPUs to share out, as CUDA_VISIBLE_DEVICES names them; None asks the machine.
            grace_seconds: how long a job may take to save once it is told to stop.

        Raises:
            ConfigError: if `workers` is below 1, or above the number of GPUs.
        """
        self.gpus = list(_gpus() if gpus is None else gpus)
        self.workers = workers if workers is not None else len(self.gpus) or len(os.sched_getaffinity(0))
        self.grace_seconds = grace_seconds
        if self.workers < 1:
            raise ConfigError(f"workers is {self.workers}; give the number of runs at a time, at least 1.")
        if self.gpus and self.workers > len(self.gpus):
            raise ConfigError(
                f"workers is {self.workers}, but this machine offers {len(self.gpus)} GPUs, one a run; ask for less."
            )

    def run(self, jobs: Sequence[Job]) -> Iterator[Ended]:
        """Carry out the jobs; yields each as it ends. Closing the iterator stops what is left."""
        context = self._context(jobs)
        waiting = list(reversed(jobs))
        free = list(reversed(self.gpus[: self.workers] or [None] * self.workers))
        running: dict[int, tuple[Job, BaseProcess, str | None]] = {}
        try:
            while waiting or running:
                while waiting and free:
                    job, gpu = waiting.pop(), free.pop()
                    process = self._start(context, job, gpu)
                    running[process.sentinel] = job, process, gpu
                for sentinel in wait(list(running)):
                    assert isinstance(sentinel, int)
                    job, process, gpu = running.pop(sentinel)
                    process.join()
                    free.append(gpu)
                    assert process.exitcode is not None
                    yield Ended(job=job, exit_code=process.exitcode)
        finally:
            self._stop([process for _, process, _ in running.values()])

    def _context(self, jobs: Sequence[Job]) -> BaseContext:
        if self.gpus or sys.platform != "linux":
            return multiprocessing.get_context("spawn")
        if self.workers > 1:
            # OpenMP reads this once, when the process that all runs are forks of imports torch.
            os.environ["OMP_NUM_THREADS"] = "1"
        context = multiprocessing.get_context("forkserver")
        package = __name__.partition(".")[0]  # of a foreign module nobody knows what importing it does
        modules = {job.command[2] for job in jobs if job.command[1] == "-m" and job.command[2].startswith(package)}
        context.set_forkserver_preload([__name__, *sorted(modules)])
        return context

    def _start(self, context: BaseContext, job: Job, gpu: str | None) -> BaseProcess:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        environment = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
        if not self.gpus and self.workers > 1:
            environment["OMP_NUM_THREADS"] = "1"
        process = getattr(context, "Process")(  # noqa: B009 - typeshed gives it to the contexts below alone
            target=run_command, args=(job.command, job.log.absolute(), environment), name=job.name
        )
        process.start()
        return process

    def _stop(self, processes: Sequence[BaseProcess]) -> None:
        """End what runs: SIGINT, which a training takes as save and end; then, after a while, SIGKILL."""
        try:
            for process in processes:
                assert process.pid is not None
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGINT)
            deadline = time.monotonic() + self.grace_seconds
            for process in processes:
                process.join(max(0.0, deadline - time.monotonic()))
        finally:  # at once on a second Ctrl-C
            for process in processes:
                process.kill()
            for process in processes:
                process.join()


def run_command(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
    """What a process does that was started for a job: become the job."""
    # A session of its own: Ctrl-C at the terminal reaches it through the engine, once.
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(environment)
    interpreter, *arguments = command
    if interpreter != sys.executable or arguments[0] != "-m":
        os.execvp(interpreter, [interpreter, *arguments])
    threading.Thread(target=_stop_with_the_engine, daemon=True).start()
    sys.argv = arguments[1:]
    sys.modules.pop(arguments[1], None)  # imported ahead for what it imports; it runs as the main module
    runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)


def _stop_with_the_engine() -> None:
    """Where the engine is killed outright, save and end as after Ctrl-C: its next start goes on from there."""
    engine = multiprocessing.parent_process()
    assert engine is not None
    engine.join()
    os.kill(os.getpid(), signal.SIGINT)


def _gpus() -> list[str]:
    """The GPUs of this machine, those of CUDA_VISIBLE_DEVICES where it is set."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]
