"""Runs as tasks of a Ray cluster that is already there.

The folder of the grid must be shared: every node writes logs and records under the same path.
A training keeps checkpoints there to go on from, so shipping back a record at the end would
not do. Each node is asked before anything starts.
"""

import os
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from secura.errors import ConfigError
from secura.experiments.comparison.engines.command_line import (
    GRACE_SECONDS,
    RunningCommand,
    append_to_log,
    missing_here,
)
from secura.experiments.comparison.engines.engine import Ended, Job

_POLL_SECONDS = 1.0
_PROBE_SECONDS = 120.0
_LOST_WORKERS = 3
"""How often a job is started again whose node or worker died; its run goes on from a checkpoint."""

PASSED_ON = ("HF_HOME", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "OMP_WAIT_POLICY", "TOKENIZERS_PARALLELISM")
"""Environment variables that a job gets from here; a worker has those of `ray start` otherwise."""


class RayEngine:
    """Carries out jobs on an existing Ray cluster; an `Engine`.

    `ray start` must have been called from the same virtual environment on each node: Ray wants
    one version of Python and of itself, and a job's interpreter must exist there.
    """

    def __init__(
        self,
        *,
        address: str | None = None,
        workers: int | None = None,
        cpus: float = 1,
        gpus: float | None = None,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        """Say where, and what a job takes.

        Args:
            address: of the cluster, such as `10.0.0.1:6379`; None is RAY_ADDRESS, or else the
                cluster that this machine is part of.
            workers: jobs at a time; None is as many as the cluster has room for.
            cpus: CPUs that a job takes; Ray sets OMP_NUM_THREADS to it.
            gpus: GPUs that a job takes, parts of one allowed; None is one where the cluster has any.
            grace_seconds: how long a cancelled run may take to save.

        Raises:
            ConfigError: for a number that cannot work, or where Ray is not installed.
        """
        if workers is not None and workers < 1:
            raise ConfigError(f"workers is {workers}; give the number of jobs at a time, at least 1.")
        if cpus <= 0:
            raise ConfigError(f"cpus is {cpus}; a job takes more than 0.")
        if gpus is not None and (gpus < 0 or (gpus > 1 and gpus != int(gpus))):
            raise ConfigError(f"gpus is {gpus}; a job takes a share of one GPU, or a whole number of them.")
        self._ray = _ray()
        self.address = address
        self.workers = workers
        self.cpus = cpus
        self.gpus = gpus
        self.grace_seconds = grace_seconds

    def run(self, jobs: Sequence[Job]) -> Iterator[Ended]:
        """Carry out the jobs; yields each as it ends. Closing the iterator cancels what is left.

        Raises:
            ConfigError: before anything starts, if there is no cluster, no node has room for a
                job, or a node does not see the folder of the grid.
        """
        ours = not self._ray.is_initialized()
        if ours:
            self._connect()
        try:
            resources = self._resources()
            self._check_nodes(jobs)
            yield from self._run_jobs(jobs, resources)
        finally:
            if ours:
                self._ray.shutdown()

    def _connect(self) -> None:
        address = self.address or os.environ.get("RAY_ADDRESS") or "auto"
        # Ray itself keeps asking an address where nothing answers for five minutes.
        if ":" in address and "://" not in address and not _answers(address):
            raise ConfigError(f"nothing answers at {address}; start a cluster there with `ray start --head`.")
        passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        try:
            self._ray.init(
                address=address,
                runtime_env={"env_vars": passed_on},
                log_to_driver=False,
                logging_level="ERROR",
            )
        except (ConnectionError, ValueError, RuntimeError, self._ray.exceptions.RayError) as problem:
            wanted = "no Ray cluster runs on this machine" if address == "auto" else f"no Ray cluster at {address}"
            raise ConfigError(
                f"{wanted}; start one with `ray start --head`, or name another address ({_in_one_line(problem)})"
            ) from problem

    def _resources(self) -> dict[str, Any]:
        """What a task asks for; refuses what no node has, since Ray would wait for it for ever."""
        nodes = self._nodes()
        most_gpus = max((node["Resources"].get("GPU", 0) for node in nodes), default=0)
        gpus = min(1, most_gpus) if self.gpus is None else self.gpus
        has = [(node["Resources"].get("CPU", 0), node["Resources"].get("GPU", 0)) for node in nodes]
        if not any(own_cpus >= self.cpus and own_gpus >= gpus for own_cpus, own_gpus in has):
            each = ", ".join(f"{own_cpus:g} + {own_gpus:g}" for own_cpus, own_gpus in has)
            raise ConfigError(
                f"a job takes {self.cpus:g} CPUs + {gpus:g} GPUs, but the nodes of this Ray cluster have {each}; "
                "ask for less, or add a node."
            )
        return {"num_cpus": self.cpus, "num_gpus": gpus}

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def _check_nodes(self, jobs: Sequence[Job]) -> None:
        """Ask every node whether it sees what the jobs need."""
        if not jobs:
            return
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # pyright: ignore[reportMissingImports]  # an extra

        probe = self._ray.remote(num_cpus=0, max_retries=0)(missing_here)
        for log_folder in {job.log.absolute().parent for job in jobs}:
            log_folder.mkdir(parents=True, exist_ok=True)
        paths = {(job.log.absolute().parent, job.command[0]) for job in jobs}
        asked = [
            (
                node["NodeName"],
                probe.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                    Path.cwd(), log_folder, interpreter
                ),
            )
            for node in self._nodes()
            for log_folder, interpreter in paths
        ]
        for name, answer in asked:
            try:
                missing = self._ray.get(answer, timeout=_PROBE_SECONDS)
            except self._ray.exceptions.RayError as problem:
                raise ConfigError(
                    f"node {name} of the Ray cluster cannot carry out jobs; start Ray there from this virtual "
                    f"environment ({_in_one_line(problem)})"
                ) from problem
            if missing is not None:
                raise ConfigError(
                    f"node {name} of the Ray cluster does not see {missing}; put the grid's folder and the virtual "
                    "environment on storage that all nodes share, under the same path."
                )

    def _run_jobs(self, jobs: Sequence[Job], resources: dict[str, Any]) -> Iterator[Ended]:
        task = self._ray.remote(max_retries=_LOST_WORKERS, **resources)(_run_command)
        waiting, running = list(reversed(jobs)), {}
        try:
            while waiting or running:
                while waiting and (self.workers is None or len(running) < self.workers):
                    job = waiting.pop()
                    # Its name is what `ray list tasks` and the dashboard show.
                    reference = task.options(name=job.name).remote(
                        job.command, job.log.absolute(), Path.cwd(), self.grace_seconds
                    )
                    running[reference] = job
                done, _ = self._ray.wait(list(running), num_returns=1, timeout=_POLL_SECONDS)
                for reference in done:
                    yield self._ended(running.pop(reference), reference)
        finally:
            self._cancel(list(running))

    def _ended(self, job: Job, reference: Any) -> Ended:
        try:
            return Ended(job=job, exit_code=self._ray.get(reference))
        except self._ray.exceptions.RayError as problem:
            append_to_log(job.log, f"Ray: {problem}")
            return Ended(job=job, exit_code=1)

    def _cancel(self, references: list[Any]) -> None:
        """End what is queued or runs, and wait until each run has saved what it can."""
        if not references:
            return
        for reference in references:
            self._ray.cancel(reference)
        _, left = self._ray.wait(references, num_returns=len(references), timeout=self.grace_seconds + 15)
        for reference in left:
            self._ray.cancel(reference, force=True)


def _run_command(command: Sequence[str], log: Path, folder: Path, grace_seconds: float) -> int:
    """What a worker does. A cancelled task gets a KeyboardInterrupt here, and stops its command."""
    missing = missing_here(folder, log.parent, command[0])
    if missing is not None:  # a node that joined after the nodes were asked
        raise FileNotFoundError(f"this node does not see {missing}")
    with RunningCommand(command, log, folder=folder, grace_seconds=grace_seconds) as running:
        return running.wait()


def _ray() -> Any:  # a module, which pyright can only check where ray is installed
    try:
        import ray  # pyright: ignore[reportMissingImports]  # an extra
    except ImportError as problem:
        raise ConfigError(
            f"engine ray needs the package ray, which is not installed in this Python ({sys.executable}); pip "
            "install 'secura[ray]'."
        ) from problem
    return ray


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=10):
            return True
    except (OSError, ValueError):
        return False


def _in_one_line(problem: Exception) -> str:
    return " ".join(str(problem).split())[:200]
