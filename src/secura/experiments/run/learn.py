"""The steps of one task: its trainer, its callbacks, and how it stops."""

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainerState, set_seed
from transformers.trainer import TRAINER_STATE_NAME

from secura.continual.own_text import OwnText
from secura.continual.sequential import Sequential
from secura.continual.strategy import Strategy
from secura.continual.strategy_callback import STATE_FOLDER, StrategyCallback
from secura.errors import ConfigError, StoppedError, TrainingError
from secura.evaluation.scoring import Model
from secura.experiments.files import LOG_FILE
from secura.experiments.run.folder import resume_command
from secura.experiments.run.prepare import PreparedRun
from secura.experiments.run.rows import PreparedTask
from secura.experiments.run.run_record import RecordRun
from secura.experiments.settings.run import RunConfig
from secura.stop_signals import what_stopped
from secura.tasks.prompting import pad_token_of
from secura.training.checkpoint_folder import checkpoint_of
from secura.training.checkpoint_seal import SealCheckpoint
from secura.training.checkpoints import checkpoints, step_of, trainable_weights_are_finite
from secura.training.evaluations import Evaluations, Look, StopWithoutProgress, looks_of
from secura.training.examples import Example, example_from_labels
from secura.training.fold_schedule import FoldCallback
from secura.training.interrupt import SaveOnInterrupt
from secura.training.processes import computes_on_cpu, gather_from_everyone, is_main_process, process_count, sharding
from secura.training.progress import ShowProgress
from secura.training.step_log import StepLog
from secura.training.stop_at_divergence import StopAtDivergence
from secura.training.stop_at_non_finite import StopAtNonFinite, non_finite
from secura.training.trainer import make_trainer


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What came of the steps."""

    seconds: float
    """How long they took."""
    looks: Sequence[Look]
    """What was measured on the way."""
    best_step: int | None
    """The step that the model is as after; None for the last."""


def first_batch(run: PreparedRun[RunConfig]) -> list[Example]:
    """The rows that the first step will see, as the trainer draws them for all processes."""
    with tempfile.TemporaryDirectory() as folder, _use_cache_put_back(run.model):
        trainer = _trainer(run, run.task, run.model, Path(folder), run.config.training.seed, [])
        batch = next(iter(trainer.get_train_dataloader()))
    rows = [example_from_labels(tokens, labels) for tokens, labels in _rows_of(batch)]
    rows = [row for row in rows if row.learned_tokens]  # others fill up a batch that several processes share
    return [row for rows in gather_from_everyone(rows) for row in rows]


def _rows_of(batch: Mapping[str, Tensor]) -> Iterator[tuple[list[int], list[int]]]:
    """Tokens and labels of each row of a batch, its padding left out; of one without padding, of each that begins."""
    if "attention_mask" in batch:
        for tokens, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
            length = int(mask.sum())
            yield tokens[:length].tolist(), labels[:length].tolist()
        return
    tokens, labels, places = (batch[name][0].tolist() for name in ("input_ids", "labels", "position_ids"))
    begins = [at for at, place in enumerate(places) if place == 0]
    for first, after in pairwise([*begins, len(tokens)]):
        yield tokens[first:after], labels[first:after]


def learn_task(
    run: PreparedRun[Any],
    task: PreparedTask,
    model: Model,
    strategy: Strategy,
    *,
    folder: Path,
    seed: int,
    task_index: int,
    resume_from: Path | None,
    console: Console | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    evaluations: Evaluations | None = None,
    report_to: Sequence[str] = (),
) -> Learned:
    """Take the steps of a task, or those that are left.

    Args:
        run: its settings.
        task: what is learned.
        model: the model as it is before the task, or was at `resume_from`; trained in place.
        strategy: what is done against forgetting.
        folder: of the checkpoints and the log of the steps.
        seed: of the order of the rows and of dropout.
        task_index: which task this is for the strategy, from 0.
        resume_from: the checkpoint to go on from.
        console: where progress is shown; None shows none.
        callbacks: called after the folds of each step, before it is logged.
        evaluations: what is measured on the way; the model is left as its best one found it.
        report_to: trackers that the figures go to.

    Raises:
        TrainingError: if the loss, a gradient or a weight becomes NaN or infinite, or
            Ctrl-C stopped the run; the message says how to go on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    interrupt = SaveOnInterrupt()
    progress = None if console is None else ShowProgress(console)
    if isinstance(strategy, OwnText) and run.anchors is not None:
        strategy.use_bank(run.anchors)
    attached = None if isinstance(strategy, Sequential) else StrategyCallback(strategy, task_index=task_index)
    if attached is not None and resume_from is not None:
        strategy.load(resume_from / STATE_FOLDER)
    every = [
        *_fold_callbacks(run, task),
        *callbacks,
        attached,  # before its figures are logged
        *([StepLog(folder / LOG_FILE), progress] if is_main_process() else []),
        None if evaluations is None or evaluations.patience is None else StopWithoutProgress(evaluations),
        *(StopAtNonFinite(), StopAtDivergence() if run.config.training.stop_at_divergence else None),
        *(interrupt, RecordRun(run.record), SealCheckpoint()),
    ]
    began = time.monotonic()
    with _use_cache_put_back(model):
        chosen = [each for each in every if each is not None]
        trainer = _trainer(run, task, model, folder, seed, chosen, evaluations, report_to)
        if sharding() == "fsdp2" and process_count() > 1 and not trainer.accelerator.is_fsdp2:
            raise TrainingError(
                "accelerate did not turn FSDP2 on, so no weight would be divided; see docs/multi_process.md."
            )
        try:
            with interrupt:
                _take_steps(trainer, task.steps, seed, resume_from, evaluations)
        finally:
            if progress is not None:
                progress.close()
            if attached is not None:
                attached.release()
    step = trainer.state.global_step
    if any(gather_from_everyone(interrupt.interrupted)):
        newest = next(iter(checkpoints(folder)), None)
        where = f"saved in {newest}" if newest else "nothing was saved"
        which = f" of task {task_index + 1} of {len(run.tasks)}, {task.name}" if len(run.tasks) > 1 else ""
        raise StoppedError(
            f"stopped by {what_stopped()} after step {step} of {task.steps}{which}, {where}; "
            f"to continue: {resume_command(run.folder, run.config)}"
        )
    if not all(gather_from_everyone(trainable_weights_are_finite(model))):
        raise non_finite("a trained weight is NaN or infinite", task.steps, folder, model)
    return Learned(
        seconds=time.monotonic() - began,
        looks=looks_of(trainer.state),
        best_step=trainer.state.best_global_step if evaluations is not None and evaluations.best else None,
    )


def _take_steps(
    trainer: Trainer, steps: int, seed: int, resume_from: Path | None, evaluations: Evaluations | None
) -> None:
    if resume_from is not None and _is_done(resume_from, steps, evaluations):
        # Nothing is left to train, and `train` would take one step too many. What is due at the
        # end, such as a fold, comes after the last checkpoint, so it is still due.
        state = trainer.state = TrainerState.load_from_json(str(resume_from / TRAINER_STATE_NAME))
        best = None if evaluations is None or evaluations.best is None else state.best_global_step
        trainer._load_from_checkpoint(str(resume_from if best is None else checkpoint_of(resume_from.parent, best)))
        trainer.callback_handler.on_train_end(trainer.args, trainer.state, trainer.control)
        return
    set_seed(seed)
    trainer.train(resume_from_checkpoint=None if resume_from is None else str(resume_from))


def _is_done(resume_from: Path, steps: int, evaluations: Evaluations | None) -> bool:
    if step_of(resume_from) >= steps:
        return True
    if evaluations is None:
        return False
    return evaluations.is_over(TrainerState.load_from_json(str(resume_from / TRAINER_STATE_NAME)))


def _trainer(
    run: PreparedRun[Any],
    task: PreparedTask,
    model: Model,
    folder: Path,
    seed: int,
    callbacks: Sequence[TrainerCallback],
    evaluations: Evaluations | None = None,
    report_to: Sequence[str] = (),
) -> Trainer:
    training = run.config.training
    assert training.max_grad_norm is not None  # the method's own, by now
    try:
        return make_trainer(
            model,
            task.examples,
            folder=folder,
            steps=task.steps,
            batch_size=training.batch_size,
            gradient_accumulation=task.gradient_accumulation,
            learning_rate=run.learning_rate,
            warmup=training.warmup,
            schedule=training.schedule,
            max_grad_norm=training.max_grad_norm,
            weight_decay=training.weight_decay,
            seed=seed,
            save_every=training.save_every,
            gradient_checkpointing=training.gradient_checkpointing,
            precision=training.computed_in,
            cpu=computes_on_cpu() if process_count() > 1 else model.device.type == "cpu",
            pad_token=pad_token_of(run.tokenizer),
            callbacks=callbacks,
            optimizer=training.optimizer,
            packed_tokens=task.packed_tokens,
            padding_free=training.padding_free,
            evaluations=evaluations,
            report_to=report_to,
        )
    except ValueError as problem:
        raise ConfigError(f"training: {' '.join(str(problem).split())}") from problem


@contextmanager
def _use_cache_put_back(model: Model) -> Iterator[None]:
    """Trainer switches `use_cache` off, and a saved model would stay slow at generating."""
    use_cache = model.config.use_cache
    try:
        yield
    finally:
        model.config.use_cache = use_cache


def _fold_callbacks(run: PreparedRun[Any], task: PreparedTask) -> list[TrainerCallback]:
    """The callback that folds the adapter, where the method or the user wants it folded."""
    every = run.config.method.fold_every
    return [] if every is None else [FoldCallback(every=every, task=task.name)]
