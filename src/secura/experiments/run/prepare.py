"""Everything that is checked and loaded before any compute is spent, for one task and for several in order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from secura.adapters.corda import adapter_state
from secura.adapters.dividing import get_ready_to_divide
from secura.adapters.sharding import whole_shape
from secura.anchors.bank import read_bank
from secura.errors import BaseMismatchError, InputError
from secura.evaluation.scoring import Model, context_length
from secura.experiments.anchors import bank_for_run
from secura.experiments.data import NO_RETENTION
from secura.experiments.methods.adapters import attach_adapter, go_on_with_adapter
from secura.experiments.methods.checks import check_settings
from secura.experiments.methods.defaults import default_rate, with_method_defaults
from secura.experiments.models.base_record import BaseFingerprint, base_fingerprint, base_record, check_base
from secura.experiments.models.loading import (
    as_stored,
    check_loading,
    check_tokens_are_known,
    load_model,
    model_source,
)
from secura.experiments.run.divided import whole_model
from secura.experiments.run.folder import check_folder, check_same_run, is_begun, run_folder
from secura.experiments.run.packages import check_packages
from secura.experiments.run.processes import check_processes
from secura.experiments.run.rows import (
    PreparedTask,
    calibration_texts,
    check_keep_can_be_shown,
    fit_task,
    longest_row,
    read_rows,
    refuse_long_questions,
    retention_of,
    starts_from_own_texts,
    that_fit_whole,
)
from secura.experiments.run.run_record import run_record
from secura.experiments.settings.run import RunConfig
from secura.experiments.settings.sequence import LearningConfig, SequenceConfig
from secura.experiments.settings.task_order import ordered_tasks
from secura.plain_console import PlainConsole
from secura.tasks.everyday.prompts import PROMPTS
from secura.tasks.prompting import pad_token_of
from secura.tasks.question import Item
from secura.training.checkpoints import damaged_checkpoints, last_good_checkpoint
from secura.training.fast_precision import fast_precision
from secura.training.library_output import silence_libraries
from secura.training.packing import refuse_rows_that_see_others
from secura.training.processes import divides_weights, from_main_process, wait_for_everyone

Config = TypeVar("Config", RunConfig, SequenceConfig)


@dataclass(frozen=True, kw_only=True)
class PreparedRun(Generic[Config]):
    """A run whose every check has passed: one task, or several in order."""

    config: Config
    """The configuration, every default filled in."""
    folder: Path
    """Where everything that is kept goes."""
    tokenizer: PreTrainedTokenizerBase
    """The model's tokenizer."""
    fingerprint: BaseFingerprint
    """Checksums of the base model, stored beside the adapter."""
    tasks: list[PreparedTask]
    """The tasks in the order they are learned."""
    retention: list[Item]
    """What must not be lost; empty where nothing is asked."""
    max_tokens: int
    """The longest row: `data.max_length`, or the context."""
    started: Model | None
    """The model with its adapter attached; None in a sequence, each stage of which loads its own."""
    corda_start: Mapping[str, Tensor] | None
    """For corda, the adapter before training, which what is saved is told from."""
    anchors: Path | None
    """The anchor bank that the strategy own_text holds the model to; None for other strategies, and where nothing is
    to be trained."""
    resumes: bool
    """Whether it goes on with what is in the folder."""
    resume_from: Path | None
    """The checkpoint to go on from, where one task is learned."""
    notes: list[str]
    """What the user should know before the run."""

    @property
    def task(self) -> PreparedTask:
        """The task of a run that learns one."""
        (task,) = self.tasks
        return task

    @property
    def prompts(self) -> Sequence[str]:
        """Open prompts, answered before and after, to see a new style leak; the bundled model reads no English."""
        asked = self.config.model.path is not None and self.config.retention.path != NO_RETENTION
        return PROMPTS if asked else ()

    @property
    def names(self) -> list[str]:
        """Names of the tasks in order."""
        return [task.name for task in self.tasks]

    @property
    def model(self) -> Model:
        """The model with its adapter attached, where one task is learned."""
        assert self.started is not None
        return self.started

    @cached_property
    def record(self) -> dict[str, Any]:
        """What is kept beside each state of the run, so that it is gone on with as it began."""
        return run_record(self.config, self.tasks)

    @property
    def base_record(self) -> dict[str, str]:
        """What is written beside a result, so that it is used on no other base."""
        return base_record(self.config.model, self.fingerprint)

    @property
    def learning_rate(self) -> float:
        """Peak learning rate; the method's own for as long as none has been chosen."""
        rate = self.config.training.learning_rate
        return rate if isinstance(rate, float) else default_rate(self.config)

    @property
    def trainable_weights(self) -> int:
        """How many values are trained."""
        return sum(whole_shape(weight).numel() for weight in self.model.parameters() if weight.requires_grad)

    @property
    def base_weights(self) -> int:
        """How many values the base model has."""
        total = sum(whole_shape(weight).numel() for weight in self.model.parameters())
        return total - self.trainable_weights if isinstance(self.model, PeftModel) else total


def prepare_run(config: Config, *, resume: bool = False, dry_run: bool = False) -> PreparedRun[Config]:
    """Load everything a run needs and refuse what cannot work.

    Args:
        config: of one task, or of a sequence.
        resume: whether to go on with the run in its folder; a sequence always does.
        dry_run: whether nothing is to be trained, so that the base need not write its anchors.

    Raises:
        InputError: for a setting, file, row, adapter or model that cannot be used, or a folder
            that holds a run with other settings.
    """
    silence_libraries()
    config = with_method_defaults(config)
    check_settings(config)
    check_loading(config.model)
    check_packages(config)
    check_processes(config)
    folder = from_main_process(lambda: run_folder(config, resume=resume))
    is_sequence = isinstance(config, SequenceConfig)
    if is_sequence:
        resume = is_begun(folder)
    check_folder(folder, type(config), resume=resume)
    rows, retention = read_rows(config), retention_of(config)
    model, tokenizer = load_model(config.model)
    context = context_length(model, tokenizer)
    max_tokens = longest_row(config.data.max_length, context)
    notes: list[str] = []
    names = ordered_tasks(config) if isinstance(config, SequenceConfig) else [Path(rows[0].name).name]
    tasks = [fit_task(config, name, each, tokenizer, max_tokens, notes) for name, each in zip(names, rows, strict=True)]
    if config.retention.path is None:  # our own questions, of which a small model is asked what it can read
        retention = that_fit_whole(retention, tokenizer, context or max_tokens)
    else:
        refuse_long_questions(retention, tokenizer, context or max_tokens, source=config.retention.path)
    if config.retention.keep is not None:
        check_keep_can_be_shown(config.retention.keep, retention)
    largest = (max(example.tokens) for task in tasks for example in task.examples)
    check_tokens_are_known(model, largest, model_source(config.model))
    fingerprint = _fingerprint(config, model)
    config = _filled_in(config, folder, tasks, model.device)
    if resume:
        check_same_run(folder, config, tasks, fingerprint)
    held_to, bank = config.strategy.name == "own_text", None
    # In a dry run, a bank that is there is looked at, and none is written.
    if (held_to or starts_from_own_texts(config)) and not (dry_run and config.strategy.settings.get("bank") is None):
        bank = _bank(config, model, tokenizer, fingerprint, tasks)
    own_texts = _own_texts(config, bank, tasks[0])
    adapted = start_model(config, model, tokenizer, fingerprint, max_tokens, own_texts)
    if config.training.packing or config.training.padding_free:
        refuse_rows_that_see_others(adapted, tasks[0].examples, pad_token=pad_token_of(tokenizer))
    resume_from = None
    if not is_sequence:
        resume_from = from_main_process(lambda: last_good_checkpoint(folder)) if resume else None
        notes.extend(_notes_on_one_task(config, tasks[0], retention, adapted, folder if resume else None, resume_from))
    if divides_weights():
        get_ready_to_divide(adapted, resume_from)
    is_corda = config.method.name == "corda" and not is_sequence
    wait_for_everyone()  # before the first of them writes into the folder that all have checked
    return PreparedRun(
        config=config,
        folder=folder,
        tokenizer=tokenizer,
        fingerprint=fingerprint,
        tasks=tasks,
        retention=retention,
        max_tokens=max_tokens,
        started=None if is_sequence else adapted,
        corda_start=adapter_state(adapted) if is_corda and isinstance(adapted, PeftModel) else None,
        anchors=bank if held_to else None,
        resumes=resume,
        resume_from=resume_from,
        notes=notes,
    )


def _fingerprint(config: LearningConfig, model: PreTrainedModel) -> BaseFingerprint:
    """Of the base as it is stored: what is made of a quantized one is used on that, too."""
    if not config.model.in_fewer_bits:
        return base_fingerprint(model)
    return base_fingerprint(load_model(as_stored(config.model))[0])


def _bank(
    config: LearningConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    fingerprint: BaseFingerprint,
    tasks: Sequence[PreparedTask],
) -> Path:
    """The base's own texts, written before it has an adapter."""
    settings = config.strategy.settings if config.strategy.name == "own_text" else {}

    def written() -> Path:
        with whole_model(model, config.model, None) as whole:
            return bank_for_run(
                whole,
                tokenizer,
                config.model,
                fingerprint,
                examples=[example for task in tasks for example in task.examples],
                strategy=settings,
                precision=config.training.computed_in,
                console=PlainConsole(stderr=True),
            )

    return from_main_process(written)


def start_model(
    config: LearningConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    fingerprint: BaseFingerprint,
    max_tokens: int,
    own_texts: Sequence[Sequence[int]] = (),
) -> Model:
    """Give a model the adapter that a run starts from, drawn by its seed; `own_texts` are the base's.

    Raises:
        InputError: if the adapter does not fit the model.
    """
    method = config.method
    set_seed(config.training.seed)
    if isinstance(config, SequenceConfig) or config.method.start_from is None:
        texts = calibration_texts(config, tokenizer, max_tokens, own_texts)
        return attach_adapter(model, method.name, method.adapter, texts)
    folder = Path(config.method.start_from)
    if not (folder / "adapter_config.json").is_file():
        raise InputError(f"method.start_from {folder}: no adapter there (no adapter_config.json).")
    doubt = check_base(folder, fingerprint, model_source(config.model))
    if doubt is not None:
        raise BaseMismatchError(f"{doubt}; give that model with --model.")
    return go_on_with_adapter(model, folder, method.name, method.adapter)


def _own_texts(config: LearningConfig, bank: Path | None, task: PreparedTask) -> Sequence[Sequence[int]]:
    """What the base has written, where an adapter starts from it; a row in place of what a dry run has not written."""
    if not starts_from_own_texts(config):
        return []
    if bank is None:
        return [example.tokens for example in task.examples[:1]]
    written = read_bank(bank)
    return [written.texts[index].tokens for index in written.trained_on]


def _filled_in(config: Any, folder: Path, tasks: list[PreparedTask], device: torch.device) -> Any:
    """The configuration with nothing left open, so that what is stored of it stays true."""
    filled: dict[str, Any] = {}
    if config.training.precision == "auto":
        filled["precision"] = fast_precision(device)
    if not isinstance(config, SequenceConfig):
        filled |= {"steps": tasks[0].steps, "gradient_accumulation": tasks[0].gradient_accumulation}
    config = config.model_copy(update={"training": config.training.model_copy(update=filled), "out": str(folder)})
    if isinstance(config, SequenceConfig):
        return config.model_copy(update={"tasks": ordered_tasks(config), "order_seed": None})
    return config


def _notes_on_one_task(
    config: LearningConfig,
    task: PreparedTask,
    retention: list[Item],
    model: Model,
    resumed: Path | None,
    resume_from: Path | None,
) -> list[str]:
    notes = []
    if resumed is not None:
        notes += [f"{path.name} is damaged and is skipped" for path in damaged_checkpoints(resumed)]
        if resume_from is None:
            notes.append(f"{resumed} holds no checkpoint yet, so the run starts at step 0")
    if not retention:
        notes.append("no retention questions: leave out --retain none, or name a file, to see what the model forgets")
    if not task.test:
        notes.append("no held-out rows: the gain on the new task is not measured")
    if config.training.precision == "bf16" and fast_precision(model.device) != "bf16":
        notes.append(
            f"{model.device.type} here has no instructions for bfloat16, so training.precision=bf16 is slower than "
            "float32; auto takes what is fast"
        )
    if config.method.name == "full" and model.dtype in (torch.bfloat16, torch.float16):
        notes.append(f"{model.dtype} weights lose small updates by rounding; set model.dtype to float32")
    return notes
