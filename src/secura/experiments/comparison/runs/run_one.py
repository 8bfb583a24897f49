"""`python -m secura.experiments.comparison.runs.run_one DIR/GRID/cells/NAME.json`: one run of a grid.

Ends with 0 where the run's record says success, 1 where it says failed, and 130 after Ctrl-C,
which leaves no record: the next start goes on from the last checkpoint. A run is carried out by
one process at a time; a second one waits for the first, and then has nothing left to do.
"""

import os
import signal
import sys
import time
import traceback
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock
from rich.console import Console

from secura.errors import SecuraError, StoppedError
from secura.experiments.comparison.runs.grid_run import GridRunFiles, read_grid_run
from secura.experiments.comparison.runs.outcome import blank_record, measured_run
from secura.experiments.comparison.runs.record import RunRecord
from secura.experiments.comparison.runs.record_files import FAILED_FOLDER, read_record, write_record

DONE, FAILED, STOPPED = 0, 1, 130


def run_one(path: Path) -> int:
    """Carry out a stored run, unless it has a record of success; returns the exit code."""
    grid_run, files = read_grid_run(path)
    files.lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(files.lock):
        if files.record.exists():
            if read_record(files.record).status == "success":
                return DONE
            set_failure_aside(files)
        began = time.monotonic()
        try:
            record = measured_run(grid_run, files, Console(width=120))
        except (StoppedError, KeyboardInterrupt) as problem:
            print(f"stopped: {problem}", flush=True)
            return STOPPED
        except Exception as problem:  # whatever it is belongs to this run, and must not cost the others theirs
            traceback.print_exc()
            record = replace(blank_record(grid_run), error=_in_one_sentence(problem))
        now = datetime.now(UTC).replace(microsecond=0).isoformat()
        seconds = round(time.monotonic() - began, 3)
        write_record(files.folder, replace(record, created_at=now, total_seconds=seconds))
    return DONE if record.status == "success" else FAILED


def set_failure_aside(files: GridRunFiles) -> None:
    """Keep the record of a failure under `failed/` with its time, so that the run can be tried again."""
    failed: RunRecord = read_record(files.record)
    when = failed.created_at.replace(":", "-") or "unknown"
    aside = files.record.parent / FAILED_FOLDER / f"{files.name}-{when}.json"
    aside.parent.mkdir(parents=True, exist_ok=True)
    os.replace(files.record, aside)


def _in_one_sentence(problem: Exception) -> str:
    text = " ".join(str(problem).split())[:500]
    return text if isinstance(problem, SecuraError) else f"{type(problem).__name__}: {text}"


def main() -> None:
    """Carry out the run that the command line names, and exit with its code."""
    # A shell may have started us with Ctrl-C ignored, but the one who started us stops us with it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(run_one(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
