"""What a run has been done with, beside its state: its settings, and checksums of its rows.

`config.yaml` is a file that a user may edit, and rows lie elsewhere. So each checkpoint, each stage of a sequence and
the folder itself hold a record of their own, and only what agrees with all of them is gone on with.
"""

import hashlib
import json
from array import array
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from secura.errors import ConfigError
from secura.experiments.files import RUN_RECORD
from secura.experiments.run.rows import PreparedTask
from secura.experiments.settings.layers import config_from, differences
from secura.experiments.settings.sequence import LearningConfig
from secura.json_text import read_json
from secura.training.checkpoint_folder import checkpoint_folder
from secura.training.processes import is_main_process
from secura.whole_files import write_json

_HELD_BY = ("", "checkpoint-*", "after-*", "task-*/checkpoint-*")


def run_record(config: LearningConfig, tasks: Sequence[PreparedTask]) -> dict[str, Any]:
    """What `RUN_RECORD` holds."""
    return {"settings": config.model_dump(), "rows": {task.name: _checksum(task) for task in tasks}}


def has_record(folder: Path) -> bool:
    """Whether the run in a folder has one that can be read; those of earlier versions have none."""
    return _read(folder / RUN_RECORD) is not None


def refuse_another_run(folder: Path, config: LearningConfig, tasks: Sequence[PreparedTask]) -> None:
    """Refuse to go on with other settings or rows than what is in the folder was made with.

    Raises:
        ConfigError: naming every setting that differs, or the task whose rows do.
    """
    own = run_record(config, tasks)
    for pattern in _HELD_BY:
        for path in sorted(folder.glob(f"{pattern}/{RUN_RECORD}" if pattern else RUN_RECORD)):
            record = _read(path)
            if record is not None:
                _compare(path.parent, record, config, own["rows"])


def _compare(held_by: Path, record: dict[str, Any], config: LearningConfig, rows: dict[str, str]) -> None:
    changed = differences(without_places(config_from(type(config), record["settings"])), without_places(config))
    if changed:
        raise ConfigError(
            f"the run in {held_by} cannot be resumed with other settings: {'; '.join(changed)}; "
            "use the old settings, or name another folder with --out."
        )
    for name, checksum in record["rows"].items():
        if rows.get(name) != checksum:
            raise ConfigError(
                f"the rows of {name} are not those that {held_by} was trained on or asked; put the file back as it "
                "was, or name another folder with --out."
            )


def without_places(config: Any) -> Any:
    """The settings that must not change in a resumed run: not where it lies, nor what it must keep."""
    free = {"min_retention": None}
    return config.model_copy(update={"out": None, "retention": config.retention.model_copy(update=free)})


def _read(path: Path) -> dict[str, Any] | None:
    """A record; None where it is damaged, as what it lies beside then is."""
    try:
        record = read_json(path)
        return record if isinstance(record["settings"], dict) and isinstance(record["rows"], dict) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _checksum(task: PreparedTask) -> str:
    found = hashlib.sha256()
    for example in task.examples:
        left_out = [place for span in example.left_out for place in span]
        found.update(array("q", [len(example.tokens), example.learned_from, *example.tokens, *left_out]).tobytes())
    for item in task.test:
        # What an item has not leaves its checksum as it was before items could have it.
        own = {name: value for name, value in asdict(item).items() if value or name not in ("tools", "answer_turn")}
        found.update(json.dumps(own, sort_keys=True, default=str).encode())
    return found.hexdigest()


class RecordRun(TrainerCallback):
    """Writes the record into each checkpoint, before it is sealed."""

    def __init__(self, record: dict[str, Any]) -> None:
        self.record = record

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write it."""
        del control, kwargs
        if is_main_process():
            write_json(checkpoint_folder(args, state) / RUN_RECORD, self.record)
