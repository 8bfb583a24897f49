"""What can be asked of a finished sequence: its ledger, a task taken out, the task that broke a family."""

from dataclasses import dataclass
from pathlib import Path

from peft import PeftModel

from secura.adapters import folded_tasks, undo
from secura.errors import ConfigError
from secura.evaluation.merged import merged_for_scoring
from secura.experiments.files import ADAPTER_FOLDER, CONFIG_FILE, write_folder, write_json
from secura.experiments.models.loading import BASE_RECORD, base_record
from secura.experiments.sequence.matrix import GroupScore, SequenceScores, read_matrix
from secura.experiments.sequence.run import (
    PreparedSequence,
    load_stage,
    prepare_sequence,
    questions_by_group,
    score_group,
)
from secura.experiments.settings.layers import load_config_of
from secura.experiments.settings.sequence import SequenceConfig
from secura.tasks.question import Item


@dataclass(frozen=True, kw_only=True)
class Undone:
    """A task's change taken out of the last model, and every score before and after."""

    task: str
    """The task."""
    saved: Path
    """The adapter without it."""
    before: dict[str, GroupScore]
    """The last stage's scores."""
    after: dict[str, GroupScore]
    """Scores without the task's change."""


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


def open_sequence(folder: Path) -> tuple[PreparedSequence, SequenceScores]:
    """A sequence in a folder, as far as it has come.

    Raises:
        ConfigError: if the folder holds none.
    """
    if not (folder / CONFIG_FILE).is_file():
        raise ConfigError(f"{folder} holds no sequence, for want of {CONFIG_FILE}.")
    config = load_config_of(SequenceConfig, str(folder / CONFIG_FILE), flags={"out": str(folder)})
    run = prepare_sequence(config)
    return run, read_matrix(folder, run.names)


def ledger(folder: Path) -> list[str]:
    """The tasks whose change can be taken out, first learned first."""
    run, _ = open_sequence(folder)
    if not run.first_stage:
        return []
    model, _, _ = load_stage(run, run.first_stage)
    return folded_tasks(model) if run.boundary == "fold" or run.fold_every else []


def undo_task(folder: Path, task: str) -> Undone:
    """Take a task's change out of the last model, score the result, and save its adapter beside the sequence.

    Raises:
        ConfigError: if the sequence has learned nothing yet, or does not fold.
        FoldError: if the task was not folded, naming those that were.
    """
    run, matrix = open_sequence(folder)
    stage = run.first_stage
    if not stage:
        raise ConfigError(f"the sequence in {folder} has not finished a task yet, so there is nothing to take out.")
    if run.boundary != "fold" and not run.fold_every:
        raise ConfigError(
            f"the sequence in {folder} was learned with method.boundary {run.boundary}, so its tasks lie in one "
            "adapter and cannot be told apart; learn it with method.boundary fold."
        )
    model, tokenizer, strategy = load_stage(run, stage)
    strategy.prepare_to_serve(model)
    undo(model, task)
    assert isinstance(model, PeftModel)
    with merged_for_scoring(model):
        after = {
            group: score_group(run, model, tokenizer, items) for group, items in questions_by_group(run, stage).items()
        }
    saved = folder / f"without-{task}"

    def fill(path: Path) -> None:
        model.save_pretrained(str(path / ADAPTER_FOLDER))
        tokenizer.save_pretrained(str(path / ADAPTER_FOLDER))
        write_json(path / ADAPTER_FOLDER / BASE_RECORD, base_record(run.config.model, run.fingerprint))

    write_folder(saved, fill)
    return Undone(task=task, saved=saved / ADAPTER_FOLDER, before=matrix.cells.get(stage, {}), after=after)


def bisect_family(folder: Path, family: str, *, below: float = 0.9, questions: int = 200) -> Culprit:
    """Find, by halving, the task after which a family of knowledge fell below a share of the base's score.

    Halving supposes that what was broken stays broken; a family that recovers in between can
    hide an earlier fall.

    Args:
        folder: a sequence.
        family: a family of knowledge.
        below: the limit, as a share of the base model's right answers.
        questions: how many questions of the family are asked of each model, at most.

    Raises:
        ConfigError: if the sequence has learned nothing yet, or there is no such family.
    """
    run, _ = open_sequence(folder)
    items = _of_family(run, family, questions)
    asked: dict[int, float] = {}

    def share(stage: int) -> float:
        if stage not in asked:
            model, tokenizer, strategy = load_stage(run, stage)
            strategy.prepare_to_serve(model)
            with merged_for_scoring(model):
                asked[stage] = score_group(run, model, tokenizer, items).share_right or 0.0
        return asked[stage]

    limit = below * share(0)
    whole, broken = 0, run.first_stage
    if share(broken) >= limit:
        return Culprit(
            task=None, base=share(0), before=share(0), after=share(broken), asked=len(items), models_asked=len(asked)
        )
    while broken - whole > 1:
        middle = (whole + broken) // 2
        if share(middle) < limit:
            broken = middle
        else:
            whole = middle
    return Culprit(
        task=run.names[broken - 1],
        base=share(0),
        before=share(whole),
        after=share(broken),
        asked=len(items),
        models_asked=len(asked),
    )


def _of_family(run: PreparedSequence, family: str, count: int) -> list[Item]:
    if not run.first_stage:
        raise ConfigError(f"the sequence in {run.folder} has not finished a task yet, so no task can be at fault.")
    known = list(dict.fromkeys(item.family for item in run.retention))
    if family not in known:
        raise ConfigError(f"unknown family {family!r}; this sequence asks for {', '.join(known)}.")
    more = run.config.model_copy(update={"retention": run.config.retention.model_copy(update={"per_family": count})})
    from secura.experiments.data import read_run_data
    from secura.experiments.settings.run import DataConfig, RunConfig

    data = DataConfig(path=run.names[0])
    read = read_run_data(RunConfig(model=more.model, data=data, training=more.training, retention=more.retention))
    return [item for item in read.retention if item.family == family]
