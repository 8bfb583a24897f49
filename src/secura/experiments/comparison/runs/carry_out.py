"""`python -m secura.experiments.comparison.runs.carry_out DIR/GRID/cells/NAME.json`: one run of a grid.

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

from secura.errors import SecuraError, StoppedError
from secura.experiments.comparison.runs.comparison_run import ComparisonRun, read_declaration
from secura.experiments.comparison.runs.record_files import FAILED_FOLDER, read_record, write_record
from secura.experiments.comparison.runs.train_and_measure import blank_record, train_and_measure
from secura.plain_console import PlainConsole
from secura.training.memory import out_of_memory_sentence
from secura.visible import visible

DONE, FAILED, STOPPED = 0, 1, 130


def carry_out(path: Path) -> int:
    """Carry out a declared run, unless it has a record of success; returns the exit code."""
    run = read_declaration(path)
    run.lock_file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(run.lock_file):
        if run.state == "done":
            return DONE
        if run.state == "failed":
            _set_failure_aside(run)
        began = time.monotonic()
        try:
            record = train_and_measure(run, PlainConsole(width=120))
        except (StoppedError, KeyboardInterrupt) as problem:
            print(visible(f"stopped: {problem}"), flush=True)
            return STOPPED
        except Exception as problem:  # whatever it is belongs to this run, and must not cost the others theirs
            traceback.print_exc()
            record = replace(blank_record(run.declared), error=_in_one_sentence(problem))
        now = datetime.now(UTC).replace(microsecond=0).isoformat()
        seconds = round(time.monotonic() - began, 3)
        write_record(run.folder, replace(record, created_at=now, total_seconds=seconds))
    return DONE if record.status == "success" else FAILED


def _set_failure_aside(run: ComparisonRun) -> None:
    """Keep the record of a failure under `failed/` with its time, so that the run can be tried again."""
    when = read_record(run.record_file).created_at.replace(":", "-") or "unknown"
    aside = run.record_file.parent / FAILED_FOLDER / f"{run.name}-{when}.json"
    aside.parent.mkdir(parents=True, exist_ok=True)
    os.replace(run.record_file, aside)


def _in_one_sentence(problem: Exception) -> str:
    text = " ".join(str(problem).split())[:500]
    if isinstance(problem, SecuraError):
        return text
    return out_of_memory_sentence(problem) or f"{type(problem).__name__}: {text}"


def main() -> None:
    """Carry out the run that the command line names, and exit with its code."""
    # A shell may have started us with Ctrl-C ignored, but the one who started us stops us with it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(carry_out(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
