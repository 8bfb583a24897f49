"""A seal on a folder: checksums of all its files, written last.

A folder that a crash tore has no seal, and one that was damaged later does not match its own.
"""

import json
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from secura.checksums import file_checksum
from secura.json_text import read_json
from secura.training.checkpoint_folder import checkpoint_folder
from secura.training.processes import is_main_process, wait_for_everyone
from secura.whole_files import write_text

SEAL_FILE = "seal.json"


def seal(folder: Path) -> None:
    """Write the checksums of every file below `folder` into it."""
    sums = {str(path.relative_to(folder)): file_checksum(path) for path in _files(folder)}
    write_text(folder / SEAL_FILE, json.dumps(sums, indent=1))


def seal_holds(folder: Path) -> bool:
    """Whether a folder is sealed, and holds the files that it held then, and no others, as they were."""
    try:
        sums = read_json(folder / SEAL_FILE)
        found = {str(path.relative_to(folder)) for path in _files(folder)}
        return found == set(sums) and all(file_checksum(folder / name) == checksum for name, checksum in sums.items())
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return False


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(SEAL_FILE))


class SealCheckpoint(TrainerCallback):
    """Seals each checkpoint; the last of the callbacks that write into one."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Seal the checkpoint that has just been written, by every process."""
        del control, kwargs
        wait_for_everyone()
        if is_main_process():
            seal(checkpoint_folder(args, state))
        wait_for_everyone()
