"""`matrix.json`: every score of a sequence, one cell for each stage and group of questions.

Stage 0 is the base model, stage t the model after task t. A group is a task or a family of
knowledge, in the file `task:NAME` or `knowledge:FAMILY`. The file is written anew after every
cell, whole or not at all, and its content depends on the scores alone, so a resumed sequence
ends with the same bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from secura.errors import ConfigError
from secura.evaluation.retention_metrics import ScoreMatrix
from secura.evaluation.tally import Tally
from secura.experiments.files import MATRIX_FILE
from secura.json_text import read_json
from secura.whole_files import write_json


@dataclass(frozen=True)
class QuestionGroup:
    """One group of questions: those of a task, or of a family of knowledge."""

    kind: Literal["task", "knowledge"]
    """What the questions are about."""
    name: str
    """Name of the task or the family."""

    def __str__(self) -> str:
        """The group as the file names it."""
        return f"{self.kind}:{self.name}"


def group_from_text(text: str) -> QuestionGroup:
    """The inverse of `str(group)`."""
    kind, _, name = text.partition(":")
    return QuestionGroup("task" if kind == "task" else "knowledge", name)


@dataclass(frozen=True, kw_only=True)
class GroupScore:
    """Scores of one group of questions at one stage."""

    right: str = ""
    """One character a question, 1 for right and 0 for wrong; empty where nothing can be matched."""
    nats_per_token: float | None = None
    """Mean loss on the right answers, for groups whose answers are too long to match."""

    @property
    def asked(self) -> int:
        """How many questions were asked."""
        return len(self.right)

    @property
    def answers(self) -> list[bool]:
        """Whether each question was answered right."""
        return [each == "1" for each in self.right]

    @property
    def share_right(self) -> float | None:
        """Right answers as a share of 1; None where nothing was asked."""
        return self.right.count("1") / self.asked if self.asked else None


@dataclass(kw_only=True)
class SequenceScores:
    """All cells of a sequence; a missing one is missing."""

    tasks: list[str]
    """The tasks in the order they are learned."""
    cells: dict[int, dict[QuestionGroup, GroupScore]] = field(default_factory=dict)
    """By stage, then by group."""

    def share(self, stage: int, group: QuestionGroup) -> float | None:
        """Right answers of a group at a stage, as a share of 1; None where it was not scored."""
        cell = self.cells.get(stage, {}).get(group)
        return None if cell is None else cell.share_right

    def knowledge(self, stage: int) -> float | None:
        """Right answers over all families of knowledge at a stage, each question counting once."""
        cells = [cell for group, cell in self.cells.get(stage, {}).items() if group.kind == "knowledge"]
        asked = sum(cell.asked for cell in cells)
        return sum(cell.right.count("1") for cell in cells) / asked if asked else None

    def tally(self, stage: int, group: QuestionGroup) -> Tally | None:
        """A group's answers by the base model and at a stage; None where either was not scored right or wrong."""
        first, then = (self.cells.get(each, {}).get(group) for each in (0, stage))
        if first is None or then is None or not first.asked or first.asked != then.asked:
            return None
        return Tally.of_answers(first.answers, then.answers)

    def knowledge_kept(self, stage: int) -> dict[str, Tally]:
        """What is kept of each family of knowledge at a stage, those that were not scored left out."""
        groups = [group for group in self.cells.get(0, {}) if group.kind == "knowledge"]
        tallies = {group.name: self.tally(stage, group) for group in groups}
        return {family: tally for family, tally in tallies.items() if tally is not None}

    def mean_of_tasks(self, stage: int, tasks: Sequence[str]) -> float | None:
        """Mean share of right answers over tasks, each task counting once; None if none was scored."""
        shares = [share for name in tasks if (share := self.share(stage, QuestionGroup("task", name))) is not None]
        return sum(shares) / len(shares) if shares else None

    def task_matrix(self) -> ScoreMatrix:
        """R[t, i] over the stages scored so far, what retention metrics are drawn from."""
        stages = range(1 + max(self.cells, default=0))
        rows = tuple(tuple(self.share(stage, QuestionGroup("task", task)) for task in self.tasks) for stage in stages)
        return ScoreMatrix(tasks=tuple(self.tasks), scores=rows)


def write_matrix(folder: Path, matrix: SequenceScores) -> None:
    """Write the file, whole or not at all."""
    stages: list[dict[str, Any]] = []
    for stage, cells in sorted(matrix.cells.items()):
        groups = {
            str(group): {"right": cell.right, "share_right": cell.share_right, "nats_per_token": cell.nats_per_token}
            for group, cell in cells.items()
        }
        stages.append({"stage": stage, "after_task": matrix.tasks[stage - 1] if stage else None, "groups": groups})
    write_json(folder / MATRIX_FILE, {"tasks": matrix.tasks, "stages": stages})


def _score(cell: Any) -> GroupScore:
    right, nats = cell["right"], cell["nats_per_token"]
    if set(right) - set("01") or not (nats is None or isinstance(nats, float | int)):
        raise ValueError("no score")
    return GroupScore(right=right, nats_per_token=nats)


def read_matrix(folder: Path, tasks: Sequence[str]) -> SequenceScores:
    """Read the file; an empty matrix where there is none yet.

    Raises:
        ConfigError: if it is damaged.
    """
    matrix = SequenceScores(tasks=list(tasks))
    path = folder / MATRIX_FILE
    if not path.is_file():
        return matrix
    try:
        for stage in read_json(path)["stages"]:
            matrix.cells[int(stage["stage"])] = {
                group_from_text(group): _score(cell) for group, cell in stage["groups"].items()
            }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise ConfigError(f"{path} is damaged; delete it, and every stage is scored again.") from problem
    return matrix
