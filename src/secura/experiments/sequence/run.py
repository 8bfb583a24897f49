"""`secura sequence`: task after task, every score kept, and the same bits after any interruption.

Each stage starts from what the one before has written to disk, in an undisturbed run as in a
resumed one; each task's random draws depend on the seed and its place alone. So whether a
sequence was killed, and where, leaves no trace in its adapter or its scores.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from rich.console import Console

from secura.adapters import fold
from secura.continual.own_text import OwnText
from secura.errors import ConfigError
from secura.evaluation.answer_match import fits
from secura.evaluation.merged import merged_for_scoring
from secura.evaluation.provenance import provenance
from secura.experiments.anchors import bank_of_task
from secura.experiments.files import ADAPTER_FOLDER, MODEL_FOLDER, RUN_RECORD
from secura.experiments.run.folder import begun
from secura.experiments.run.learn import learn_task
from secura.experiments.run.prepare import PreparedRun, prepare_run
from secura.experiments.run.saving import result_folder, save_result
from secura.experiments.sequence.matrix import SequenceScores, read_matrix, write_matrix
from secura.experiments.sequence.scores import questions_by_group, score_group
from secura.experiments.sequence.stages import (
    BANK_FOLDER,
    STRATEGY_FOLDER,
    Stage,
    last_whole_stage,
    load_served,
    load_stage,
    stage_folder,
    task_folder,
    write_stage,
    writes_texts,
)
from secura.experiments.settings.sequence import SequenceConfig
from secura.tasks.prompting import pad_token_of
from secura.tasks.question import Match, Question
from secura.training.checkpoints import damaged_checkpoints, last_good_checkpoint
from secura.training.examples import PadToLongest
from secura.whole_files import write_folder, write_json

SUMMARY_FILE = "sequence.json"


@dataclass(frozen=True, kw_only=True)
class PreparedSequence:
    """A sequence whose every check has passed, and how far it has come."""

    run: PreparedRun[SequenceConfig]
    """Its settings, rows and questions."""
    first_stage: int
    """The last stage that is on disk whole; 0 for none."""
    notes: list[str]
    """What the user should know before it is gone on with."""


def prepare_sequence(config: SequenceConfig, *, dry_run: bool = False) -> PreparedSequence:
    """Read and check everything; where the folder holds this very sequence, find where to go on.

    Raises:
        InputError: for a setting, file, row or model that cannot be used, or a folder that
            holds a sequence with other settings.
    """
    run = prepare_run(config, dry_run=dry_run)
    stage, damaged = last_whole_stage(run.folder, run.names)
    notes = [*run.notes, *(f"{name} is damaged and is skipped" for name in damaged)]
    return PreparedSequence(run=run, first_stage=stage, notes=notes)


OnStage = Callable[[SequenceScores, int, float], None]
"""Called after each stage with the matrix so far, the stage, and the seconds it took."""


def run_sequence(sequence: PreparedSequence, console: Console, on_stage: OnStage) -> SequenceScores:
    """Learn every task that is left, and score every stage that is not scored.

    Raises:
        TrainingError: if a loss becomes NaN or infinite, or Ctrl-C stopped the sequence; the
            same command goes on with it.
    """
    run = sequence.run
    with begun(run.folder, run.config, run.record, run.base_record, resume=run.resumes):
        return _run_sequence(sequence, console, on_stage)


def _run_sequence(sequence: PreparedSequence, console: Console, on_stage: OnStage) -> SequenceScores:
    run = sequence.run
    if last_whole_stage(run.folder, run.names)[0] != sequence.first_stage:
        raise ConfigError(f"another process has continued the sequence in {run.folder} in the meantime; start again.")
    matrix = read_matrix(run.folder, run.names)
    for stage in range(len(run.tasks) + 1):
        began = time.monotonic()
        if stage > sequence.first_stage:
            _learn(run, stage, console)
        if _score(run, stage, matrix) or stage > sequence.first_stage:
            on_stage(matrix, stage, time.monotonic() - began)
    _finish(run)
    return matrix


def _finish(run: PreparedRun[SequenceConfig]) -> None:
    """Put the model that is meant to be used where a user looks for it."""
    last = len(run.tasks)
    served = load_served(run.config, run.folder, last)
    merged = run.config.method.boundary == "anew"

    def fill(path: Path) -> None:
        if merged:  # the adapter that would begin the next task is not part of it
            shutil.copytree(stage_folder(run.folder, last, run.names[-1]) / MODEL_FOLDER, path, dirs_exist_ok=True)
            return
        save_result(path, served.model, served.tokenizer, record=run.base_record)

    write_folder(run.folder / MODEL_FOLDER if merged else result_folder(run.folder, served.model), fill)
    trained = sum(weight.numel() for weight in served.model.parameters() if weight.requires_grad)
    write_json(
        run.folder / SUMMARY_FILE,
        {
            "config": run.config.model_dump(),
            "base_fingerprint": run.fingerprint.exact,
            "trainable_weights": trained,
            "provenance": provenance(),
        },
    )


def _learn(run: PreparedRun[SequenceConfig], stage: int, console: Console) -> None:
    """Learn the task of a stage, do what is due at its end, and write the stage."""
    task, boundary = run.tasks[stage - 1], run.config.method.boundary
    folder = task_folder(run.folder, stage, task.name)
    start = load_stage(run.config, run.folder, stage - 1)
    model, strategy = start.model, start.strategy
    for name in damaged_checkpoints(folder):
        console.print(f"note: {folder.name}/{name.name} is damaged and is skipped", highlight=False)
    learn_task(
        run,
        task,
        model,
        strategy,
        folder=folder,
        seed=run.config.training.seed + 1000 * stage,
        task_index=stage - 1,
        resume_from=last_good_checkpoint(folder),
    )
    collate: Any = PadToLongest(pad_token=pad_token_of(start.tokenizer))
    strategy.end_task(model, stage - 1, task.examples, collate)
    if boundary == "fold":
        fold(model, task.name)
    bank = _bank_of(run, start, stage, console)

    def fill(path: Path) -> None:
        write_json(path / RUN_RECORD, run.record)
        if bank is not None:
            shutil.copytree(bank, path / BANK_FOLDER)
        (path / STRATEGY_FOLDER).mkdir()
        strategy.save(path / STRATEGY_FOLDER)
        if isinstance(model, PeftModel) and boundary != "anew":
            model.save_pretrained(str(path / ADAPTER_FOLDER))
            return
        whole: Any = model.merge_and_unload() if isinstance(model, PeftModel) else model
        whole.save_pretrained(str(path / MODEL_FOLDER))
        start.tokenizer.save_pretrained(str(path / MODEL_FOLDER))

    write_stage(stage_folder(run.folder, stage, task.name), fill)
    for stale in (*folder.glob("checkpoint-*"), *folder.glob(f"{BANK_FOLDER}*")):
        shutil.rmtree(stale, ignore_errors=True)


def _bank_of(run: PreparedRun[SequenceConfig], learned: Stage, stage: int, console: Console) -> Path | None:
    """For own_text, the bank that the model has written of the task it has just learned; None where there is none."""
    strategy, task = learned.strategy, run.tasks[stage - 1]
    if not isinstance(strategy, OwnText) or not writes_texts(strategy, run.config, stage):
        return None
    folder = task_folder(run.folder, stage, task.name) / BANK_FOLDER
    rules: list[Match] = [item.match for item in task.test if isinstance(item, Question)]
    rule: Match = rules[0] if rules else "exact"
    written = bank_of_task(
        folder,
        learned.model,
        learned.tokenizer,
        rows=task.examples,
        is_right=lambda given, right: fits(rule, given, right),
        texts=strategy.task_texts,
        seed=run.config.training.seed + 1000 * stage,
        base=run.base_record,
        precision=run.config.training.computed_in,
        console=console,
    )
    if not written:
        console.print(
            f"note: {task.name}: no text that the model wrote for it can be used, so later tasks do not protect it",
            highlight=False,
            soft_wrap=True,
        )
    return folder if written else None


def _score(run: PreparedRun[SequenceConfig], stage: int, matrix: SequenceScores) -> bool:
    """Score every group of a stage that has no cell yet; whether there was one."""
    asked = run.tasks if run.config.score_unseen or not stage else run.tasks[:stage]
    groups = questions_by_group({task.name: task.test for task in asked}, run.retention)
    cells = matrix.cells.setdefault(stage, {})
    left = [group for group in groups if group not in cells]
    if not left:
        return False
    served = load_served(run.config, run.folder, stage)
    with merged_for_scoring(served.model):
        for group in left:
            cells[group] = score_group(served, groups[group], run.config.scoring)
            write_matrix(run.folder, matrix)
    return True
