"""What is kept after each task of a sequence: the model as it was then, sealed.

after-03-own_things/
├── adapter/ or model/   what the next task starts from
├── strategy/            what the strategy remembers
└── seal.json            checksums of all of it, written before the folder gets its name
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from secura.experiments.files import write_folder
from secura.training.checkpoint_seal import seal, seal_holds

STRATEGY_FOLDER = "strategy"


def stage_folder(out: Path, stage: int, task: str) -> Path:
    """Where the model after a task lies; stages count from 1."""
    return out / f"after-{stage:02d}-{_file_name(task)}"


def task_folder(out: Path, stage: int, task: str) -> Path:
    """Where a task's own checkpoints and log lie."""
    return out / f"task-{stage:02d}-{_file_name(task)}"


def write_stage(folder: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write a stage, seal it, and give it its name."""

    def fill_and_seal(path: Path) -> None:
        fill(path)
        seal(path)

    write_folder(folder, fill_and_seal)


def last_whole_stage(out: Path, tasks: Sequence[str]) -> tuple[int, list[str]]:
    """The last stage to go on from, 0 for none, and the names of damaged ones that were passed over."""
    damaged = []
    for stage in range(len(tasks), 0, -1):
        folder = stage_folder(out, stage, tasks[stage - 1])
        if not folder.is_dir():
            continue
        if seal_holds(folder):
            return stage, damaged
        damaged.append(folder.name)
    return 0, damaged


def _file_name(task: str) -> str:
    return re.sub(r"[^\w.-]+", "_", Path(task).stem if "/" in task else task)
