"""The task of a finished sequence that broke a family of knowledge, found by halving."""

from dataclasses import dataclass
from pathlib import Path

from secura.errors import ConfigError
from secura.evaluation.merged import merged_for_scoring
from secura.experiments.data import read_retention
from secura.experiments.run.rows import retention_of
from secura.experiments.sequence.opened import OpenedSequence, open_sequence
from secura.experiments.sequence.scores import score_group
from secura.experiments.sequence.stages import load_served
from secura.tasks.question import Item
from secura.training.library_output import silence_libraries


@dataclass(frozen=True, kw_only=True)
class Culprit:
    """The task after which a family of knowledge was first below the limit."""

    task: str | None
    """The task; None where the family never fell below it."""
    base: float
    """Share of right answers of the base model."""
    before: float
    """Share of right answers before the task."""
    after: float
    """Share of right answers after it; of the last model where no task is named."""
    asked: int
    """Questions asked of each model."""
    models_asked: int
    """How many models were asked: a bisection asks few."""


def bisect_family(
    folder: Path, family: str, *, below: float = 0.9, questions: int = 200, trust_tasks: bool = False
) -> Culprit:
    """Find, by halving, the task after which a family of knowledge fell below a share of the base's score.

    Halving supposes that what was broken stays broken; a family that recovers in between can
    hide an earlier fall.

    Args:
        folder: a sequence.
        family: a family of knowledge.
        below: the limit, as a share of the base model's right answers.
        questions: how many questions of the family are asked of each model, at most.
        trust_tasks: whether Python files that the folder names as tasks may be run.

    Raises:
        ConfigError: if the sequence has learned nothing yet, there is no such family, a number is out of range, or a
            stage is not what was sealed.
    """
    if not 0 < below <= 1:
        raise ConfigError(f"--below is {below}; it is a share of the base model's score, above 0 and at most 1.")
    if questions < 1:
        raise ConfigError(f"--questions is {questions}; give a number of questions, at least 1.")
    silence_libraries()
    opened = open_sequence(folder, trust_tasks=trust_tasks)
    items = _of_family(opened, family, questions)
    asked: dict[int, float] = {}

    def share(stage: int) -> float:
        if stage not in asked:
            served = load_served(opened.config, folder, stage)
            with merged_for_scoring(served.model):
                asked[stage] = score_group(served, items, opened.config.scoring).share_right or 0.0
        return asked[stage]

    limit = below * share(0)
    whole, broken = 0, opened.last_stage
    found = share(broken) < limit
    while found and broken - whole > 1:
        middle = (whole + broken) // 2
        if share(middle) < limit:
            broken = middle
        else:
            whole = middle
    return Culprit(
        task=opened.names[broken - 1] if found else None,
        base=share(0),
        before=share(whole),
        after=share(broken),
        asked=len(items),
        models_asked=len(asked),
    )


def _of_family(opened: OpenedSequence, family: str, count: int) -> list[Item]:
    if not opened.last_stage:
        raise ConfigError(f"the sequence in {opened.folder} has not finished a task yet, so no task can be at fault.")
    config = opened.config
    known = list(dict.fromkeys(item.family for item in retention_of(config)))
    if family not in known:
        raise ConfigError(f"unknown family {family!r}; this sequence asks for {', '.join(known)}.")
    items = read_retention(
        config.retention.path,
        bundled_model=config.model.path is None,
        per_family=count,
        seed=config.training.seed,
    )
    return [item for item in items if item.family == family]
