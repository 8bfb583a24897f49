"""What a place that carries out runs has to do: start command lines, and say how each ended.

A run of a grid is one command line that writes its own record, so an engine knows nothing of
methods or models, and a run that dies takes nothing with it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class Job:
    """One command line to carry out."""

    name: str
    """Name of the run, unique in the grid."""
    command: tuple[str, ...]
    """The command line; its first part is a Python interpreter."""
    log: Path
    """File that takes everything the command prints."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a job ended."""

    job: Job
    """Which one."""
    exit_code: int
    """0 where its record was written; negative for a signal."""


class Engine(Protocol):
    """A place that carries out jobs."""

    def run(self, jobs: Sequence[Job]) -> Iterator[Ended]:
        """Carry out the jobs, as many at a time as the place allows; yields each as it ends.

        Closing the iterator, as Ctrl-C does, ends what is still running.
        """
        ...
