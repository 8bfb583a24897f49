"""A task's change taken out of a finished sequence, and every score before and after."""

from dataclasses import dataclass
from pathlib import Path

from secura.adapters import undo
from secura.errors import ConfigError
from secura.experiments.files import ADAPTER_FOLDER
from secura.experiments.models.base_record import read_base_record
from secura.experiments.run.rows import fit_task, read_rows, retention_of
from secura.experiments.run.saving import save_result
from secura.experiments.sequence.matrix import GroupScore, QuestionGroup
from secura.experiments.sequence.opened import OpenedSequence, open_sequence
from secura.experiments.sequence.scores import questions_by_group, score_groups
from secura.experiments.sequence.stages import load_served, undone_folder
from secura.one_writer import one_writer
from secura.training.library_output import silence_libraries
from secura.whole_files import write_folder


@dataclass(frozen=True, kw_only=True)
class Undone:
    """A task's change taken out of the last model."""

    task: str
    """The task."""
    saved: Path
    """The adapter without it."""
    before: dict[QuestionGroup, GroupScore]
    """The last stage's scores."""
    after: dict[QuestionGroup, GroupScore]
    """Scores without the task's change."""


def undo_task(folder: Path, task: str, *, trust_tasks: bool = False) -> Undone:
    """Take a task's change out of the last model, score the result, and save its adapter beside the sequence.

    Raises:
        ConfigError: if the sequence has learned nothing yet or does not fold, or if the task was not folded, naming
            those that were.
    """
    silence_libraries()
    opened = open_sequence(folder, trust_tasks=trust_tasks)
    config, last = opened.config, opened.last_stage
    if not last:
        raise ConfigError(f"the sequence in {folder} has not finished a task yet, so there is nothing to remove.")
    if not opened.folds:
        raise ConfigError(
            f"the sequence in {folder} was learned with method.boundary {config.method.boundary}, so its tasks lie in "
            "one adapter and cannot be told apart; learn it with method.boundary fold."
        )
    if task not in opened.ledger or task not in opened.names:
        raise ConfigError(f"task {task!r} was never folded; folded so far: {', '.join(opened.ledger)}.")
    with one_writer(folder):
        return _undo(opened, task)


def _undo(opened: OpenedSequence, task: str) -> Undone:
    folder, config, last = opened.folder, opened.config, opened.last_stage
    served = load_served(config, folder, last)
    undo(served.model, task)
    tests = {
        name: fit_task(config, name, rows, served.tokenizer, served.max_tokens, []).test
        for name, rows in zip(opened.names, read_rows(config), strict=True)
    }
    asked = tests if config.score_unseen else {name: tests[name] for name in opened.names[:last]}
    after = score_groups(served, questions_by_group(asked, retention_of(config)), config.scoring)
    saved = undone_folder(folder, 1 + opened.names.index(task), task)

    def fill(path: Path) -> None:
        save_result(path / ADAPTER_FOLDER, served.model, served.tokenizer, record=read_base_record(folder))

    write_folder(saved, fill)
    return Undone(task=task, saved=saved / ADAPTER_FOLDER, before=opened.matrix.cells.get(last, {}), after=after)
