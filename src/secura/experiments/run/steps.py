"""The steps of a run: its trainer, its callbacks, and how it stops."""

import shlex
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from transformers import Trainer, TrainerCallback, set_seed

from secura.continual.strategy import Strategy
from secura.continual.strategy_callback import STATE_FOLDER, StrategyCallback
from secura.errors import ConfigError, StoppedError, TrainingError
from secura.evaluation.scoring import Model
from secura.experiments.files import LOG_FILE
from secura.experiments.methods.strategies import make_strategy
from secura.experiments.run.prepare import PreparedRun
from secura.tasks.prompting import pad_token_of
from secura.training.checkpoint_seal import SealCheckpoint
from secura.training.checkpoints import checkpoints, step_of, trainable_weights_are_finite
from secura.training.examples import Example
from secura.training.interrupt import SaveOnInterrupt
from secura.training.processes import computes_on_cpu, gather_from_everyone, is_main_process, process_count, sharding
from secura.training.progress import ShowProgress
from secura.training.step_log import StepLog
from secura.training.stop_at_non_finite import StopAtNonFinite, non_finite
from secura.training.trainer import make_trainer


def first_batch(run: PreparedRun) -> list[Example]:
    """The rows that the first step will see, as the trainer draws them for all processes."""
    with tempfile.TemporaryDirectory() as folder, _use_cache_put_back(run.model):
        trainer = _trainer(run, Path(folder), [])
        batch = next(iter(trainer.get_train_dataloader()))
    rows = []
    for tokens, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
        length = int(mask.sum())
        learned = (labels[:length] >= 0).nonzero()
        if not len(learned):  # fills up a batch that several processes share
            continue
        rows.append(Example(tokens=tokens[:length].tolist(), learned_from=int(learned[0, 0])))
    return [row for rows in gather_from_everyone(rows) for row in rows]


def train(run: PreparedRun, console: Console) -> float:
    """Take the steps, or those that are left; returns how many seconds they took.

    Raises:
        TrainingError: if the loss, a gradient or a weight becomes NaN or infinite, or
            Ctrl-C stopped the run; the message names the checkpoint to go on from.
    """
    folder = run.folder
    progress, interrupt = ShowProgress(console), SaveOnInterrupt()
    shown = [StepLog(folder / LOG_FILE), progress] if is_main_process() else []
    strategy = _strategy(run)
    # What the base knows counts as an earlier task.
    attached = [] if strategy is None else [StrategyCallback(strategy, task_index=1)]
    callbacks = [*fold_callbacks(run), *shown, StopAtNonFinite(), interrupt, *attached, SealCheckpoint()]
    began = time.monotonic()
    with _use_cache_put_back(run.model):
        trainer = _trainer(run, folder, callbacks)
        if sharding() == "fsdp2" and process_count() > 1 and not trainer.accelerator.is_fsdp2:
            raise TrainingError(
                "accelerate did not turn FSDP2 on, so no weight would be divided; see docs/multi_process.md."
            )
        try:
            with interrupt:
                _take_steps(run, trainer)
        finally:
            progress.close()
            for callback in attached:
                callback.release()
    step = trainer.state.global_step
    if interrupt.interrupted and step < run.steps:
        newest = next(iter(checkpoints(folder)), None)
        where = f"saved in {newest}" if newest else "nothing was saved"
        raise StoppedError(
            f"stopped by Ctrl-C after step {step} of {run.steps}, {where}; go on with: {resume_command(folder)}"
        )
    if not all(gather_from_everyone(trainable_weights_are_finite(run.model))):
        raise non_finite("a trained weight is NaN or infinite", run.steps, folder)
    if strategy is not None:
        strategy.prepare_to_serve(run.model)
    return time.monotonic() - began


def _strategy(run: PreparedRun) -> Strategy | None:
    """What is done against forgetting, as it was when the run stopped; None where nothing is."""
    chosen = run.config.strategy
    if chosen.name == "sequential":
        return None
    strategy = make_strategy(chosen.name, chosen.settings, seed=run.config.training.seed)
    if run.resume_from is not None:
        strategy.load(run.resume_from / STATE_FOLDER)
    return strategy


def _take_steps(run: PreparedRun, trainer: Trainer) -> None:
    if run.resume_from and step_of(run.resume_from) >= run.steps:
        # Nothing is left to train, and `train` would take one step too many. What is due at the
        # end, such as a fold, comes after the last checkpoint, so it is still due.
        trainer._load_from_checkpoint(str(run.resume_from))
        trainer.callback_handler.on_train_end(trainer.args, trainer.state, trainer.control)
        return
    set_seed(run.config.training.seed)
    trainer.train(resume_from_checkpoint=str(run.resume_from) if run.resume_from else None)


def resume_command(folder: Path) -> str:
    """What to type to go on with a run."""
    return f"secura train --resume --out {shlex.quote(str(folder))}"


def _trainer(run: PreparedRun, folder: Path, callbacks: Sequence[TrainerCallback]) -> Trainer:
    training = run.config.training
    try:
        return make_trainer(
            run.model,
            run.examples,
            folder=folder,
            steps=run.steps,
            batch_size=training.batch_size,
            gradient_accumulation=training.gradient_accumulation,
            learning_rate=run.learning_rate,
            warmup=training.warmup,
            schedule=training.schedule,
            max_grad_norm=training.max_grad_norm,
            weight_decay=training.weight_decay,
            seed=training.seed,
            save_every=training.save_every,
            gradient_checkpointing=training.gradient_checkpointing,
            precision=training.precision,
            cpu=computes_on_cpu() if process_count() > 1 else run.model.device.type == "cpu",
            pad_token=pad_token_of(run.tokenizer),
            callbacks=callbacks,
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


def fold_callbacks(run: PreparedRun) -> list[TrainerCallback]:
    """The callback that folds the adapter, where the method or the user wants it folded."""
    every = run.config.method.fold_every
    if every is None or every == "method":  # a prepared run has the method's habit in its place
        return []
    from secura.training.fold_schedule import FoldCallback

    return [FoldCallback(every=every, task=run.task)]
