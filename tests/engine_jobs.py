"""Jobs for the tests of engines: short command lines that leave a trace."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from secura.experiments.comparison.engines.engine import Job

SAVES_WHEN_STOPPED = """
import pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
def save(number, frame):
    (folder / "saved").write_text("saved")
    sys.exit(5)
signal.signal(signal.SIGINT, save)
(folder / "started").write_text("started")
time.sleep(120)
"""

GOES_ON_WHEN_REQUEUED = """
import pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
if (folder / "saved").exists():
    print("going on from what was saved")
    sys.exit(0)
def save(number, frame):
    (folder / "saved").write_text("saved")
    sys.exit(5)
signal.signal(signal.SIGINT, save)
(folder / "started").write_text("started")
time.sleep(120)
"""


COUNTS_WHO_RUNS = """
import pathlib, sys, time
folder, name = pathlib.Path(sys.argv[1]), sys.argv[2]
wanted, seconds = int(sys.argv[3]), float(sys.argv[4])
def names(what):
    return {path.stem for path in folder.glob("*." + what)}
(folder / (name + ".started")).touch()
end = time.monotonic() + seconds
while len(names("started")) < wanted and time.monotonic() < end:
    time.sleep(0.02)
print(len(names("started") - names("ended")))
(folder / (name + ".ended")).touch()
"""
"""Arguments: a folder, its name, and how many are to have started, or how many seconds to have passed, before it
counts who has started and not ended, itself included."""


def job(folder: Path, name: str, code: str, *arguments: str) -> Job:
    return Job(name=name, command=(sys.executable, "-c", code, *arguments), log=folder / "logs" / f"{name}.log")


def appears(path: Path, seconds: float = 30.0) -> bool:
    return becomes_true(path.exists, seconds)


def becomes_true(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False
