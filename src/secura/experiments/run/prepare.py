"""Everything that is checked and loaded before any compute is spent."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from secura.adapters.sharding import whole_shape
from secura.errors import ConfigError
from secura.evaluation.scoring import Model, context_length
from secura.experiments.data import RunData, calibration_items, hold_out, read_run_data
from secura.experiments.files import check_folder, check_same_settings, run_folder
from secura.experiments.library_output import quiet
from secura.experiments.methods.adapters import attach_adapter, go_on_with_adapter
from secura.experiments.methods.corda import CALIBRATION_TEXTS, adapter_state
from secura.experiments.methods.defaults import with_habits
from secura.experiments.methods.strategies import check_single_run, make_strategy
from secura.experiments.models.loading import (
    base_fingerprint,
    check_adapter_fits,
    check_base_record,
    check_tokens_are_known,
    load_model,
    model_source,
)
from secura.experiments.run.before_dividing import get_ready_to_divide
from secura.experiments.run.processes import check_processes
from secura.experiments.settings.names import CANNOT_FOLD
from secura.experiments.settings.run import RunConfig
from secura.experiments.settings.sequence import SequenceConfig
from secura.tasks.question import Item
from secura.training.checkpoints import damaged_checkpoints, last_good_checkpoint
from secura.training.examples import Example, example_from_item, fit_to_context
from secura.training.processes import divides_weights, from_main_process, wait_for_everyone


@dataclass(frozen=True, kw_only=True)
class PreparedRun:
    """A run whose every check has passed."""

    config: RunConfig
    """The configuration, every default filled in."""
    folder: Path
    """Where everything that is kept goes."""
    model: Model
    """The model with its adapter attached."""
    tokenizer: PreTrainedTokenizerBase
    """Its tokenizer."""
    fingerprint: str
    """Checksum of the base model, stored beside the adapter."""
    task: str
    """What the new task is called in the report."""
    examples: list[Example]
    """What is trained on, in tokens."""
    test: list[Item]
    """What the gain on the new task is measured on."""
    retention: list[Item]
    """What must not be lost; empty where the user named nothing."""
    max_tokens: int
    """The context: no row is longer."""
    start: Mapping[str, Tensor] | None
    """For corda, the adapter before training, which what is saved is told from."""
    resume_from: Path | None
    """The checkpoint to go on from."""
    notes: list[str]
    """What the user should know before the run, such as rows that were dropped."""

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        assert self.config.training.steps is not None
        return self.config.training.steps

    @property
    def learning_rate(self) -> float:
        """Peak learning rate."""
        assert self.config.training.learning_rate is not None
        return self.config.training.learning_rate

    @property
    def trainable_weights(self) -> int:
        """How many values are trained."""
        return sum(whole_shape(weight).numel() for weight in self.model.parameters() if weight.requires_grad)

    @property
    def base_weights(self) -> int:
        """How many values the base model has."""
        total = sum(whole_shape(weight).numel() for weight in self.model.parameters())
        return total - self.trainable_weights if isinstance(self.model, PeftModel) else total


def prepare_run(config: RunConfig, *, resume: bool = False) -> PreparedRun:
    """Load everything a run needs and refuse what cannot work.

    Raises:
        InputError: for a setting, file, row, adapter or model that cannot be used.
    """
    quiet()
    folder = from_main_process(lambda: run_folder(config, resume=resume))
    check_folder(folder, resume=resume)
    _check_settings(config)
    check_processes(config)
    data = read_run_data(config)
    model, tokenizer = load_model(config.model)
    context = context_length(model, tokenizer)
    max_tokens = _max_tokens(config, context)
    notes: list[str] = []
    examples, test = _fit(config, data, tokenizer, max_tokens, notes)
    fit_to_context(
        [example_from_item(tokenizer, item) for item in data.retention],
        max_tokens=context or max_tokens,
        too_long="refuse",
        source=config.retention.path or "the bundled retention questions",
        way_out="shorten or remove them",
    )
    check_tokens_are_known(model, (max(example.tokens) for example in examples), model_source(config.model))
    fingerprint = base_fingerprint(model)
    config = _filled_in(config, folder, _steps(config, data, len(examples)))
    if resume:
        check_same_settings(folder, config)
        check_base_record(folder, fingerprint, model_source(config.model))
    set_seed(config.training.seed)
    adapted = _adapted(config, model, tokenizer, fingerprint, max_tokens)
    resume_from = from_main_process(lambda: last_good_checkpoint(folder)) if resume else None
    if divides_weights():
        get_ready_to_divide(adapted, resume_from)
    if resume:
        damaged = [path.name for path in damaged_checkpoints(folder)]
        notes.extend(f"{name} is damaged and is passed over" for name in damaged)
    if resume and resume_from is None:
        notes.append(f"{folder} holds no checkpoint yet, so the run starts at step 0")
    if not data.retention:
        notes.append("no retention questions: name a file with --retain to see what the model forgets")
    if not test:
        notes.append("no held-out rows: the gain on the new task is not measured")
    if config.method.name == "full" and model.dtype in (torch.bfloat16, torch.float16):
        notes.append(f"{model.dtype} weights round small updates away; set model.dtype to float32")
    wait_for_everyone()  # before the first of them writes into the folder that all have checked
    return PreparedRun(
        config=config,
        folder=folder,
        model=adapted,
        tokenizer=tokenizer,
        fingerprint=fingerprint,
        task=Path(data.name).name,
        retention=data.retention,
        test=test,
        examples=examples,
        max_tokens=max_tokens,
        start=adapter_state(adapted) if config.method.name == "corda" and isinstance(adapted, PeftModel) else None,
        resume_from=resume_from,
        notes=notes,
    )


def _check_settings(config: RunConfig) -> None:
    method = config.method
    if config.strategy.name != "sequential" or config.strategy.settings:
        check_single_run(config.strategy.name, config.strategy.settings, method.name)
        make_strategy(config.strategy.name, config.strategy.settings, seed=config.training.seed)
    if method.calibration is not None and method.name != "corda":
        raise ConfigError(f"method.calibration is for corda, and method.name is {method.name}; leave it out.")
    if method.name == "full" and method.start_from is not None:
        raise ConfigError("method full has no adapter to start from; leave out method.start_from.")
    if method.name == "full" and method.fold_every not in (None, "method"):
        raise ConfigError("method full has nothing to fold; leave out method.fold_every.")
    if method.name in CANNOT_FOLD and method.fold_every not in (None, "method"):
        raise ConfigError(
            f"method {method.name} is PEFT's own and cannot fold; leave out method.fold_every, "
            "or choose cabr-lora, bounded-lora or secura."
        )
    if isinstance(method.fold_every, int) and method.fold_every < 1:
        raise ConfigError(f"method.fold_every is {method.fold_every}; it counts steps, from 1.")


def _max_tokens(config: RunConfig, context: int | None) -> int:
    wanted = config.data.max_length
    if wanted is None and context is None:
        raise ConfigError("neither model nor tokenizer says how long a row may be; set data.max_length.")
    if wanted is not None and context is not None and wanted > context:
        raise ConfigError(f"data.max_length is {wanted}, but the model reads {context} tokens at most.")
    return wanted or context or 0


def _fit(
    config: RunConfig, data: RunData, tokenizer: PreTrainedTokenizerBase, max_tokens: int, notes: list[str]
) -> tuple[list[Example], list[Item]]:
    """What is trained on and what the gain is measured on, both within the context."""
    too_long = config.data.too_long
    fitted = fit_to_context(
        [example_from_item(tokenizer, item) for item in data.train],
        max_tokens=max_tokens,
        too_long=too_long,
        source=data.name,
    )
    if fitted.too_long:
        done = "dropped" if too_long == "drop" else "truncated"
        notes.append(
            f"{fitted.too_long} of {len(data.train)} rows are longer than {max_tokens} tokens, {done} "
            f"(longest {fitted.longest})"
        )
    if data.test is not None:
        return fitted.examples, _askable(config, data.test, tokenizer, max_tokens, notes)
    wanted = config.data
    items = [data.train[index] for index in fitted.kept]
    rest, held = hold_out(items, share=wanted.test_share, at_most=wanted.test_rows, seed=config.training.seed)
    # A truncated question is another question, so it is learned from but not asked.
    whole = [index for index in held if fitted.lengths[fitted.kept[index]] <= max_tokens]
    return [fitted.examples[index] for index in rest], [items[index] for index in whole]


def _askable(
    config: RunConfig,
    test: list[Item],
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
    notes: list[str],
) -> list[Item]:
    """The rows of a test file that fit whole; where too long rows are refused, all or none."""
    fitted = fit_to_context(
        [example_from_item(tokenizer, item) for item in test],
        max_tokens=max_tokens,
        too_long="refuse" if config.data.too_long == "refuse" else "truncate",
        source=config.data.test_path or "the bundled test questions",
    )
    if fitted.too_long:
        notes.append(f"{fitted.too_long} test rows are longer than {max_tokens} tokens and are not asked")
    return [item for item, length in zip(test, fitted.lengths, strict=True) if length <= max_tokens]


def _adapted(
    config: RunConfig, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, fingerprint: str, max_tokens: int
) -> Model:
    method = config.method
    if method.start_from is None:
        texts = calibration_texts(config, tokenizer, max_tokens)
        return attach_adapter(model, method.name, method.adapter, texts)
    folder = Path(method.start_from)
    check_adapter_fits(folder, fingerprint, model_source(config.model))
    return go_on_with_adapter(model, folder, method.name, method.adapter)


def calibration_texts(
    config: RunConfig | SequenceConfig, tokenizer: PreTrainedTokenizerBase, max_tokens: int
) -> list[list[int]]:
    """What `corda` reads before it starts, in tokens; nothing for other methods."""
    if config.method.name != "corda":
        return []
    bundled = config.model.path is None
    items = calibration_items(config.method.calibration, bundled_model=bundled, seed=config.training.seed)
    return [example_from_item(tokenizer, item).tokens[:max_tokens] for item in items[:CALIBRATION_TEXTS]]


def _filled_in(config: RunConfig, folder: Path, steps: int) -> RunConfig:
    """The configuration with nothing left open, so that what is stored of it stays true."""
    config = with_habits(config)
    training = config.training.model_copy(update={"steps": steps})
    return config.model_copy(update={"training": training, "out": str(folder)})


def _steps(config: RunConfig, data: RunData, examples: int) -> int:
    training = config.training
    if training.steps is not None:
        return training.steps
    if training.epochs is None and data.steps is not None:
        return data.steps
    per_step = training.batch_size * training.gradient_accumulation
    return max(1, math.ceil(examples / per_step * (training.epochs or 1.0)))
