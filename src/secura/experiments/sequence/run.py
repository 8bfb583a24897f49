"""`secura sequence`: task after task, every score kept, and the same bits after any interruption.

Each stage starts from what the one before has written to disk, in an undisturbed run as in a
resumed one; each task's random draws depend on the seed and its place alone. So whether a
sequence was killed, and where, leaves no trace in its adapter or its scores.
"""

import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from secura.adapters import fold
from secura.continual.strategy import Strategy
from secura.continual.strategy_callback import STATE_FOLDER, StrategyCallback
from secura.errors import ConfigError, StoppedError
from secura.evaluation.answer_loss import mean_answer_loss
from secura.evaluation.merged import merged_for_scoring
from secura.evaluation.scoring import Model, context_length, score_questions
from secura.experiments.data import hold_out, read_run_data
from secura.experiments.files import (
    ADAPTER_FOLDER,
    CONFIG_FILE,
    LOG_FILE,
    MODEL_FOLDER,
    write_folder,
    write_json,
    write_text,
)
from secura.experiments.library_output import quiet
from secura.experiments.methods.adapters import attach_adapter, go_on_with_adapter
from secura.experiments.methods.defaults import with_habits
from secura.experiments.methods.strategies import check_boundary, check_goes_together, make_strategy
from secura.experiments.models.loading import (
    BASE_RECORD,
    base_fingerprint,
    base_record,
    check_base_record,
    load_model,
    model_source,
)
from secura.experiments.provenance import provenance
from secura.experiments.run.prepare import calibration_texts
from secura.experiments.run.questions import matchable
from secura.experiments.sequence.matrix import GroupScore, SequenceScores, read_matrix, write_matrix
from secura.experiments.sequence.stages import (
    STRATEGY_FOLDER,
    last_whole_stage,
    stage_folder,
    task_folder,
    write_stage,
)
from secura.experiments.settings.layers import config_as_yaml, differences, load_config_of
from secura.experiments.settings.names import Boundary
from secura.experiments.settings.run import DataConfig, RunConfig
from secura.experiments.settings.sequence import SequenceConfig
from secura.tasks.prompting import pad_token_of
from secura.tasks.question import Item
from secura.training.checkpoint_seal import SealCheckpoint
from secura.training.checkpoints import damaged_checkpoints, last_good_checkpoint, step_of
from secura.training.examples import Example, PadToLongest, example_from_item, fit_to_context
from secura.training.fold_schedule import FoldCallback
from secura.training.interrupt import SaveOnInterrupt
from secura.training.step_log import StepLog
from secura.training.stop_at_non_finite import StopAtNonFinite
from secura.training.trainer import make_trainer

SUMMARY_FILE = "sequence.json"


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """One task of a sequence, read and checked."""

    name: str
    """What it is called in the sequence."""
    examples: list[Example]
    """What is trained on, in tokens."""
    test: list[Item]
    """What it is scored on."""


@dataclass(frozen=True, kw_only=True)
class PreparedSequence:
    """A sequence whose every check has passed."""

    config: SequenceConfig
    """The configuration, every default filled in and the tasks in the order they are learned."""
    folder: Path
    """Where everything goes."""
    tasks: list[TaskData]
    """The tasks in order."""
    retention: list[Item]
    """Which knowledge is asked for at each stage."""
    boundary: Boundary
    """What becomes of the adapter between tasks."""
    fold_every: int | None
    """Steps between folds inside a task."""
    learning_rate: float
    """Peak learning rate of each task."""
    fingerprint: str
    """Checksum of the base model."""
    max_tokens: int
    """The context: no row is longer."""
    first_stage: int
    """The last stage that is on disk whole; 0 for none."""
    notes: list[str]
    """What the user should know before the run."""

    @property
    def names(self) -> list[str]:
        """Names of the tasks in order."""
        return [task.name for task in self.tasks]


def prepare_sequence(config: SequenceConfig) -> PreparedSequence:
    """Read and check everything; where the folder holds this very sequence, find where to go on.

    Raises:
        InputError: for a setting, file, row or model that cannot be used, or a folder that
            holds a sequence with other settings.
    """
    quiet()
    names = ordered_tasks(config)
    config = with_habits(config)
    method, boundary, fold_every = config.method, config.method.boundary, config.method.fold_every
    assert boundary != "method"
    assert fold_every != "method"
    assert config.training.learning_rate is not None
    check_boundary(method.name, boundary)
    check_goes_together(config.strategy.name, config.strategy.settings, method.name, boundary)
    make_strategy(config.strategy.name, config.strategy.settings, seed=config.training.seed)
    if config.training.steps is None and config.training.epochs is None:
        raise ConfigError("training.steps is null; set training.steps or training.epochs, for each task.")
    model, tokenizer = load_model(config.model)
    context = context_length(model, tokenizer)
    max_tokens = config.data.max_length or context
    if max_tokens is None:
        raise ConfigError("neither model nor tokenizer says how long a row may be; set data.max_length.")
    tasks, retention = [], []
    for name in names:
        task, retention = _read_task(config, name, tokenizer, max_tokens)
        tasks.append(task)
    fingerprint = base_fingerprint(model)
    folder = (
        Path(config.out) if config.out is not None else Path("runs") / f"sequence-{method.name}-{config.strategy.name}"
    )
    filled = config.model_copy(update={"tasks": names, "order_seed": None, "out": str(folder)})
    set_seed(config.training.seed)
    texts = calibration_texts(config, tokenizer, max_tokens)
    attach_adapter(model, method.name, method.adapter, texts)  # refuses settings that do not fit this model
    _check_folder(folder, filled, fingerprint)
    stage, damaged = last_whole_stage(folder, names)
    return PreparedSequence(
        config=filled,
        folder=folder,
        tasks=tasks,
        retention=retention,
        boundary=boundary,
        fold_every=fold_every,
        learning_rate=config.training.learning_rate,
        fingerprint=fingerprint,
        max_tokens=max_tokens,
        first_stage=stage,
        notes=[f"{name} is damaged and is passed over" for name in damaged],
    )


def ordered_tasks(config: SequenceConfig) -> list[str]:
    """The tasks in the order they are learned.

    Raises:
        ConfigError: if there are none, or one is named twice.
    """
    names = config.tasks
    if names is None:
        if config.model.path is not None:
            raise ConfigError("a model of your own needs tasks of your own; list them under tasks.")
        from secura.tasks.world import SEQUENCE

        names = list(SEQUENCE)
    if not names:
        raise ConfigError("tasks is empty; list at least one task.")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigError(f"tasks names {repeated[0]} twice; each task is learned once.")
    if config.order_seed is not None:
        names = random.Random(f"order/{config.order_seed}").sample(names, len(names))
    return list(names)


def _read_task(
    config: SequenceConfig, name: str, tokenizer: PreTrainedTokenizerBase, max_tokens: int
) -> tuple[TaskData, list[Item]]:
    """A task's rows in tokens and its questions, and the retention questions, which are the same for all."""
    data = DataConfig(
        path=name, test_share=config.data.test_share, test_rows=config.data.test_rows, too_long=config.data.too_long
    )
    run = RunConfig(model=config.model, data=data, training=config.training, retention=config.retention)
    read = read_run_data(run, bundled_rows=config.data.train_rows)
    fitted = fit_to_context(
        [example_from_item(tokenizer, item) for item in read.train],
        max_tokens=max_tokens,
        too_long=config.data.too_long,
        source=name,
    )
    examples, test = fitted.examples, read.test
    if test is None:
        items = [read.train[index] for index in fitted.kept]
        kept, held = hold_out(
            items, share=config.data.test_share, at_most=config.data.test_rows, seed=config.training.seed
        )
        examples, test = [examples[index] for index in kept], [items[index] for index in held]
    if len(examples) > config.data.train_rows:
        examples = random.Random(f"rows/{config.training.seed}").sample(examples, config.data.train_rows)
    return TaskData(name=name, examples=examples, test=test), read.retention


def _check_folder(folder: Path, config: SequenceConfig, fingerprint: str) -> None:
    """Refuse a folder of something else, or of the same sequence with other settings."""
    saved = folder / CONFIG_FILE
    if not saved.is_file():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"out {folder} is not empty and holds no sequence; name another folder with --out.")
        return
    old = load_config_of(SequenceConfig, str(saved))
    changed = differences(old.model_copy(update={"out": None}), config.model_copy(update={"out": None}))
    if changed:
        raise ConfigError(
            f"the sequence in {folder} cannot go on with other settings: {'; '.join(changed)}; "
            "leave them as they were, or name another folder with --out."
        )
    check_base_record(folder, fingerprint, model_source(config.model))


OnStage = Callable[[PreparedSequence, SequenceScores, int, float], None]
"""Called after each stage with the matrix so far, the stage, and the seconds it took."""


def run_sequence(run: PreparedSequence, console: Console, on_stage: OnStage) -> SequenceScores:
    """Learn every task that is left, and score every stage that is not scored.

    Raises:
        TrainingError: if a loss becomes NaN or infinite, or Ctrl-C stopped the sequence; the
            same command goes on with it.
    """
    write_text(run.folder / CONFIG_FILE, config_as_yaml(run.config))
    write_json(run.folder / BASE_RECORD, base_record(run.config.model, run.fingerprint))
    matrix = read_matrix(run.folder, run.names)
    for stage in range(len(run.tasks) + 1):
        began = time.monotonic()
        if stage > run.first_stage:
            _learn(run, stage, console)
        if _score(run, stage, matrix) or stage > run.first_stage:
            on_stage(run, matrix, stage, time.monotonic() - began)
    _finish(run)
    return matrix


def _finish(run: PreparedSequence) -> None:
    """Put the model that is meant to be used where a user looks for it."""
    last = len(run.tasks)
    model, tokenizer, strategy = load_stage(run, last)
    strategy.prepare_to_serve(model)
    merged = run.boundary == "anew"
    name = ADAPTER_FOLDER if isinstance(model, PeftModel) and not merged else MODEL_FOLDER

    def fill(path: Path) -> None:
        if merged:  # the adapter that would begin the next task is not part of it
            shutil.copytree(stage_folder(run.folder, last, run.names[-1]) / MODEL_FOLDER, path, dirs_exist_ok=True)
            return
        model.save_pretrained(str(path))
        tokenizer.save_pretrained(str(path))
        if isinstance(model, PeftModel):
            write_json(path / BASE_RECORD, base_record(run.config.model, run.fingerprint))

    write_folder(run.folder / name, fill)
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    write_json(
        run.folder / SUMMARY_FILE,
        {
            "config": run.config.model_dump(),
            "base_fingerprint": run.fingerprint,
            "trainable_weights": trained,
            "provenance": provenance(),
        },
    )


# ---------------------------------------------------------------------- one stage


def load_stage(run: PreparedSequence, stage: int) -> tuple[Model, PreTrainedTokenizerBase, Strategy]:
    """The model and the strategy as they are after a stage, ready to train on; stage 0 is the start."""
    config = run.config
    strategy = make_strategy(config.strategy.name, config.strategy.settings, seed=config.training.seed)
    model, tokenizer = load_model(config.model)
    if not stage:
        set_seed(config.training.seed)
        return _attached(run, model, tokenizer), tokenizer, strategy
    folder = stage_folder(run.folder, stage, run.names[stage - 1])
    strategy.load(folder / STRATEGY_FOLDER)
    whole = folder / MODEL_FOLDER
    if whole.is_dir():
        model, _ = load_model(config.model.model_copy(update={"path": str(whole)}))
        if config.method.name == "full":
            return model.requires_grad_(True), tokenizer, strategy
        set_seed(config.training.seed + stage)
        return _attached(run, model, tokenizer), tokenizer, strategy
    return go_on_with_adapter(model, folder / ADAPTER_FOLDER, config.method.name, {}), tokenizer, strategy


def _attached(run: PreparedSequence, model: Model, tokenizer: PreTrainedTokenizerBase) -> Model:
    method = run.config.method
    assert isinstance(model, PreTrainedModel)
    return attach_adapter(model, method.name, method.adapter, calibration_texts(run.config, tokenizer, run.max_tokens))


def _learn(run: PreparedSequence, stage: int, console: Console) -> None:
    """Learn the task of a stage, do what is due at its end, and write the stage."""
    task = run.tasks[stage - 1]
    folder = task_folder(run.folder, stage, task.name)
    model, tokenizer, strategy = load_stage(run, stage - 1)
    for name in damaged_checkpoints(folder):
        console.print(f"note: {folder.name}/{name.name} is damaged and is passed over", highlight=False)
    checkpoint = last_good_checkpoint(folder)
    if checkpoint is not None:
        strategy.load(checkpoint / STATE_FOLDER)
    collate: Any = PadToLongest(pad_token=pad_token_of(tokenizer))
    _take_steps(run, stage, model, strategy, tokenizer, checkpoint)
    strategy.end_task(model, stage - 1, task.examples, collate)
    if run.boundary == "fold":
        fold(model, task.name)

    def fill(path: Path) -> None:
        (path / STRATEGY_FOLDER).mkdir()
        strategy.save(path / STRATEGY_FOLDER)
        if isinstance(model, PeftModel) and run.boundary != "anew":
            model.save_pretrained(str(path / ADAPTER_FOLDER))
            return
        whole: Any = model.merge_and_unload() if isinstance(model, PeftModel) else model
        whole.save_pretrained(str(path / MODEL_FOLDER))
        tokenizer.save_pretrained(str(path / MODEL_FOLDER))

    write_stage(stage_folder(run.folder, stage, task.name), fill)
    for stale in folder.glob("checkpoint-*"):
        shutil.rmtree(stale, ignore_errors=True)


def _take_steps(
    run: PreparedSequence,
    stage: int,
    model: Model,
    strategy: Strategy,
    tokenizer: PreTrainedTokenizerBase,
    checkpoint: Path | None,
) -> None:
    training, task = run.config.training, run.tasks[stage - 1]
    folder = task_folder(run.folder, stage, task.name)
    folder.mkdir(parents=True, exist_ok=True)
    steps = _steps(run.config, len(task.examples))
    seed = training.seed + 1000 * stage
    set_seed(seed)
    attached, interrupt = StrategyCallback(strategy, task_index=stage - 1), SaveOnInterrupt()
    folds = [] if run.fold_every is None else [FoldCallback(every=run.fold_every, task=task.name)]
    trainer = make_trainer(
        model,
        task.examples,
        folder=folder,
        steps=steps,
        batch_size=training.batch_size,
        gradient_accumulation=training.gradient_accumulation,
        learning_rate=run.learning_rate,
        warmup=training.warmup,
        schedule=training.schedule,
        max_grad_norm=training.max_grad_norm,
        weight_decay=training.weight_decay,
        seed=seed,
        save_every=training.save_every,
        gradient_checkpointing=training.gradient_checkpointing,
        precision=training.precision,
        cpu=model.device.type == "cpu",
        pad_token=pad_token_of(tokenizer),
        callbacks=[*folds, StepLog(folder / LOG_FILE), StopAtNonFinite(), interrupt, attached, SealCheckpoint()],
    )
    if checkpoint is not None and step_of(checkpoint) >= steps:
        trainer._load_from_checkpoint(str(checkpoint))  # nothing is left to train; `train` would take one step more
        return
    with interrupt, _released(attached):
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if interrupt.interrupted and trainer.state.global_step < steps:
        raise StoppedError(
            f"stopped by Ctrl-C in task {stage} of {len(run.tasks)}, {task.name}, after step "
            f"{trainer.state.global_step} of {steps}; the same command goes on from there."
        )


@contextmanager
def _released(attached: StrategyCallback) -> Iterator[None]:
    try:
        yield
    finally:
        attached.release()


def _steps(config: SequenceConfig, examples: int) -> int:
    training = config.training
    if training.steps is not None:
        return training.steps
    per_step = training.batch_size * training.gradient_accumulation
    return max(1, -(-int(examples * (training.epochs or 1.0)) // per_step))


# ---------------------------------------------------------------------- scoring


def _score(run: PreparedSequence, stage: int, matrix: SequenceScores) -> bool:
    """Score every group of a stage that has no cell yet; whether there was one."""
    groups = questions_by_group(run, stage)
    cells = matrix.cells.setdefault(stage, {})
    left = [group for group in groups if group not in cells]
    if not left:
        return False
    model, tokenizer, strategy = load_stage(run, stage)
    strategy.prepare_to_serve(model)
    with merged_for_scoring(model):
        for group in left:
            cells[group] = score_group(run, model, tokenizer, groups[group])
            write_matrix(run.folder, matrix)
    return True


def questions_by_group(run: PreparedSequence, stage: int) -> dict[str, list[Item]]:
    """What is asked at a stage: tasks, those to come included where the settings say so, and knowledge."""
    asked = run.tasks if run.config.score_unseen or not stage else run.tasks[:stage]
    groups = {f"task:{task.name}": list(task.test) for task in asked if task.test}
    for item in run.retention:
        groups.setdefault(f"knowledge:{item.family}", []).append(item)
    return groups


def score_group(
    run: PreparedSequence, model: Model, tokenizer: PreTrainedTokenizerBase, items: list[Item]
) -> GroupScore:
    """Score one group: right or wrong where answers can be matched, nats per token otherwise."""
    scoring = run.config.scoring
    questions, rest = matchable(tokenizer, items, scoring.max_answer_tokens)
    if not questions:
        loss = mean_answer_loss(model, tokenizer, rest, max_tokens=run.max_tokens, batch_size=scoring.batch_size)
        return GroupScore(nats_per_token=loss)
    answers = score_questions(model, tokenizer, questions, batch_size=scoring.batch_size)
    return GroupScore(right="".join("1" if answer.correct else "0" for answer in answers))
