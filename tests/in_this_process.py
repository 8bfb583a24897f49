"""An engine for tests of grids: the real runs, one after the other, in the process of the test."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from secura.experiments.comparison.engines.engine import Ended, Job
from secura.experiments.comparison.runs.carry_out import carry_out


class InThisProcess:
    """Carries out runs of a grid here; an `Engine`."""

    def run(self, jobs: Sequence[Job]) -> Iterator[Ended]:
        """Carry out the jobs in order."""
        for job in jobs:
            job.log.parent.mkdir(parents=True, exist_ok=True)
            job.log.touch()
            yield Ended(job=job, exit_code=carry_out(Path(job.command[-1])))
