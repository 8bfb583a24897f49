"""One command line carried out on the machine that it was sent to; what both cluster engines do there.

The command runs in a process group of its own. To stop it is to send it SIGINT, which a
training takes as "save a checkpoint and end", and to end the whole group if it has not
ended by itself after a while.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

GRACE_SECONDS = 45.0
"""How long a stopped command may take to save; a preempted Slurm job has 90 seconds in all."""
_POLL_SECONDS = 0.1

# What the new process does to itself before it becomes the command. Not done between fork and
# exec, where code can deadlock in a process with threads, as Ray's workers have.
#  - A worker that the cluster kills outright must take its command with it: a retry would
#    otherwise run beside it in the same folder. Linux only.
#  - Ray's workers block SIGINT, and nohup ignores it; the command would inherit either and
#    never learn that it is to save and end.
#  - Slurm sends SIGUSR2 to every process of a job; it is for the engine, and would end the command.
_BECOME_THE_COMMAND = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
signal.pthread_sigmask(signal.SIG_SETMASK, [])
signal.signal(signal.SIGINT, signal.SIG_DFL)
signal.signal(signal.SIGUSR2, signal.SIG_IGN)
try:
    os.execvp(sys.argv[1], sys.argv[1:])
except OSError as problem:
    sys.exit(f"{problem.strerror}: {sys.argv[1]!r}")
"""


class RunningCommand:
    """A command line under way; leaving its `with` block stops it if it has not ended."""

    def __init__(
        self, command: Sequence[str], log: Path, *, folder: Path, grace_seconds: float = GRACE_SECONDS
    ) -> None:
        """Start it.

        Args:
            command: the command line.
            log: takes what it prints; appended to, since a preempted job goes on in the same file.
            folder: the working directory that paths in the command line are relative to.
            grace_seconds: how long a stopped command may take to end by itself.
        """
        self._grace_seconds = grace_seconds
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BECOME_THE_COMMAND, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                start_new_session=True,
            )

    def __enter__(self) -> "RunningCommand":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def wait(self) -> int:
        """Wait for its end; returns the exit code, negative for a signal."""
        # In small steps: Ray raises its KeyboardInterrupt between two instructions of Python, and a
        # plain wait would never come to the second.
        while (code := self._process.poll()) is None:
            time.sleep(_POLL_SECONDS)
        return code

    def stop(self) -> None:
        """End it, saving what it can, and everything it started."""
        try:
            if self._process.poll() is None:
                self._signal(signal.SIGINT)
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(timeout=self._grace_seconds)
        finally:
            self._signal(signal.SIGKILL)
            self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):  # all of it has ended
            os.killpg(self._process.pid, number)


def append_to_log(log: Path, message: str) -> None:
    """Add to a log what the engine itself has to say, such as why a job never ran."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as output:
        print(message, file=output)


def missing_here(folder: Path, log_folder: Path, interpreter: str) -> str | None:
    """Which path that a job needs is not seen by this machine; None where all are."""
    for path in (folder, log_folder, Path(interpreter)):
        if not path.exists():
            return str(path)
    return None if os.access(interpreter, os.X_OK) else interpreter
