"""A sequence on disk, as far as it has come, read from its settings, its scores and its seals alone."""

from dataclasses import dataclass
from pathlib import Path

from secura.adapters.secura.ledger import tasks_of_folds
from secura.errors import ConfigError
from secura.experiments.files import ADAPTER_FOLDER, CONFIG_FILE
from secura.experiments.run.folder import check_kind, is_begun
from secura.experiments.sequence.matrix import SequenceScores, read_matrix
from secura.experiments.sequence.stages import last_whole_stage, stage_folder
from secura.experiments.settings.layers import load_config_of
from secura.experiments.settings.sequence import SequenceConfig
from secura.experiments.settings.task_order import ordered_tasks
from secura.experiments.settings.trusted_tasks import refuse_foreign_tasks
from secura.json_text import read_json


@dataclass(frozen=True, kw_only=True)
class OpenedSequence:
    """A sequence in a folder."""

    folder: Path
    """The folder."""
    config: SequenceConfig
    """Its settings, its tasks in the order they are learned."""
    names: list[str]
    """Names of the tasks in order."""
    matrix: SequenceScores
    """Every score so far."""
    last_stage: int
    """How many tasks it has learned."""

    @property
    def folds(self) -> bool:
        """Whether what each task changed lies apart, so that it can be taken out."""
        return self.config.method.boundary == "fold" or bool(self.config.method.fold_every)

    @property
    def ledger(self) -> list[str]:
        """The tasks whose change can be taken out, first learned first."""
        if not self.last_stage or not self.folds:
            return []
        stage = stage_folder(self.folder, self.last_stage, self.names[self.last_stage - 1])
        stored = read_json(stage / ADAPTER_FOLDER / "adapter_config.json")
        return tasks_of_folds(stored["saved"]["folds"])


def open_sequence(folder: Path, *, trust_tasks: bool = False) -> OpenedSequence:
    """Open a sequence; nothing of its model is loaded, and no task is read.

    Args:
        folder: of the sequence.
        trust_tasks: whether its tasks may be read next, where they are Python files.

    Raises:
        ConfigError: if the folder holds none, or a run of one task; or names a Python file that is not trusted.
    """
    if not is_begun(folder):
        raise ConfigError(f"{folder} holds no sequence (no {CONFIG_FILE}); name the folder of one.")
    check_kind(folder, SequenceConfig)
    config = load_config_of(SequenceConfig, str(folder / CONFIG_FILE), flags={"out": str(folder)})
    refuse_foreign_tasks(config, folder / CONFIG_FILE, trust=trust_tasks)
    names = ordered_tasks(config)
    last, _ = last_whole_stage(folder, names)
    return OpenedSequence(folder=folder, config=config, names=names, matrix=read_matrix(folder, names), last_stage=last)
