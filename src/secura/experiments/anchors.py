"""`secura anchors`, and the banks that runs make: of a base, written once for its prompts and its settings, and of a
task, written by the model that has learned it."""

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from rich.console import Console
from rich.progress import Progress
from transformers import PreTrainedTokenizerBase

from secura.anchors.bank import AnchorBank, holds_bank, read_bank, write_bank
from secura.anchors.task_texts import SHARED_BY, IsRight, TaskPrompts, write_task_texts
from secura.anchors.teacher import Teacher, write_teacher
from secura.anchors.writing import Wanted, default_size, write_texts
from secura.errors import BaseMismatchError, ConfigError
from secura.evaluation.causal_model import Model, context_length, in_evaluation_mode
from secura.evaluation.score_cache import cache_folder
from secura.experiments.models.base_record import BaseFingerprint, base_fingerprint, base_record
from secura.experiments.models.loading import load_model, model_source
from secura.experiments.settings.run import ModelConfig
from secura.one_writer import one_writer_of
from secura.tasks.data_files import read_items
from secura.tasks.question import Item
from secura.training.examples import Example, example_from_item
from secura.training.library_output import silence_libraries
from secura.training.trainer import Precision


@dataclass(frozen=True, kw_only=True)
class AnchorSettings:
    """What `secura anchors` was asked for."""

    model: str | None
    """Folder, GGUF file or hub id; None is the bundled model."""
    out: Path
    """Where the bank goes."""
    prompts: str | None = None
    """File or data set whose rows' prompts the model answers."""
    given: str | None = None
    """File or data set whose rows join the bank as they are."""
    texts: int | None = None
    """How many are written; None is what suits the model's size."""
    tokens: int | None = None
    """The longest; None is what suits the model's size."""
    seed: int = 0
    """Fixes every token."""


def make_anchors(settings: AnchorSettings, console: Console) -> AnchorBank:
    """Write a bank where the user wants it, or go on with it.

    Raises:
        InputError: for a model, file or setting that cannot be used, or a folder that holds another bank.
    """
    silence_libraries()
    check_size(settings.texts, settings.tokens)
    with one_writer_of(settings.out):
        return _make_anchors(settings, console)


def _make_anchors(settings: AnchorSettings, console: Console) -> AnchorBank:
    out = settings.out
    if out.exists() and not holds_bank(out) and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"out {out} is not empty and holds no anchor bank; name another folder with --out.")
    prompts, given = ([] if path is None else read_items(path) for path in (settings.prompts, settings.given))
    config = ModelConfig(path=settings.model)
    model, tokenizer = load_model(config)
    wanted = _wanted(
        model,
        tokenizer,
        prompts=_prompts_of([example_from_item(tokenizer, item) for item in prompts]),
        given=given,
        texts=settings.texts,
        tokens=settings.tokens,
        seed=settings.seed,
    )
    fingerprint = base_fingerprint(model)
    if holds_bank(out):
        bank = read_bank(out)
        check_bank_of(bank, fingerprint, out, model_source(config))
        if bank.settings != wanted.settings():
            raise ConfigError(f"out {out} holds a bank made with other settings; name another folder with --out.")
    return _whole_bank(out, model, tokenizer, wanted, base_record(config, fingerprint), console)


def bank_for_run(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    config: ModelConfig,
    fingerprint: BaseFingerprint,
    *,
    examples: Sequence[Example],
    strategy: dict[str, Any],
    precision: Precision,
    console: Console,
) -> Path:
    """The folder of the bank that a run is held to: the user's, or one in the cache, written now if it is not there.

    Runs of any seed share it. What the base thinks of its texts is computed in the run's own precision, or a model
    that has learned nothing would seem to have moved: 0.005 nats a token on a model of 135 million weights in bf16.

    Args:
        model: the base, before it is given an adapter.
        tokenizer: the base's.
        config: which base it is.
        fingerprint: its checksums.
        examples: the rows that will be trained on.
        strategy: the settings `bank`, `texts`, `tokens`, `conversations` and `own_answers` of own_text.
        precision: that the run is trained in.
        console: where progress is shown.

    Raises:
        InputError: if the user's bank is missing, damaged, or of another base.
    """
    if strategy.get("bank") is not None:
        folder = Path(strategy["bank"])
        bank = read_bank(folder)
        check_bank_of(bank, fingerprint, folder, model_source(config))
        if not strategy.get("live_teacher"):
            Teacher(folder, bank)
        return folder
    check_size(strategy.get("texts"), strategy.get("tokens"))
    wanted = _wanted(
        model,
        tokenizer,
        prompts=_prompts_of(examples) if strategy.get("own_answers") else [],
        given=[],
        texts=strategy.get("texts"),
        tokens=strategy.get("tokens"),
        seed=0,
        conversations=strategy.get("conversations", True),
    )
    arithmetic = f"{model.dtype} on {model.device.type}, {precision}"
    key = json.dumps([fingerprint.exact, arithmetic, wanted.settings()], sort_keys=True)
    name = f"{fingerprint.exact[:16]}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    folder = cache_folder() / "anchors" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{name}.lock")), _in_precision(model, precision):
        _whole_bank(folder, model, tokenizer, wanted, base_record(config, fingerprint), console, mend=True)
    return folder


def bank_of_task(
    folder: Path,
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    *,
    rows: Sequence[Example],
    is_right: IsRight,
    texts: int | None,
    seed: int,
    base: dict[str, str],
    precision: Precision,
    console: Console,
) -> bool:
    """Let a model write the bank of the task that it has just learned; what an interruption has left is gone on with.

    Args:
        folder: where the bank goes.
        model: as it is after the task.
        tokenizer: its own.
        rows: what it was trained on; none of them is stored.
        is_right: the task's own rule.
        texts: how many are wanted; None is what suits the model's size.
        seed: fixes every token.
        base: which base the model was made of; see `base_record`.
        precision: that the next task is trained in.
        console: where progress is shown.

    Returns:
        Whether there is one: none where nothing that the model wrote can be kept.
    """
    count = default_size(sum(weight.numel() for weight in model.parameters()))[0] if texts is None else texts
    unfinished = folder.with_name(f"{folder.name}.writing")
    with _in_precision(model, precision):
        with _progress(console, "anchors: the model writes texts of the task", count) as advance:
            kept = write_task_texts(
                model,
                tokenizer,
                TaskPrompts(rows=rows),
                is_right=is_right,
                texts=count,
                seed=seed,
                unfinished=unfinished,
                on_progress=advance,
            )
        if not kept:
            return False
        bank = AnchorBank(texts=kept, base=base, settings={"texts": count, "seed": seed, "shared_by": SHARED_BY})
        write_bank(folder, bank)
        with in_evaluation_mode(model):
            write_teacher(folder, model, bank)
    return True


def _in_precision(model: Model, precision: Precision) -> AbstractContextManager[Any]:
    """What the base thinks is computed as the run computes, or a model that has learned nothing seems to have moved."""
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    return nullcontext() if half is None else torch.autocast(model.device.type, dtype=half)


def check_size(texts: int | None, tokens: int | None) -> None:
    """Refuse a bank of no size.

    Raises:
        ConfigError: naming the value.
    """
    if texts is not None and texts < 2:
        raise ConfigError(f"texts is {texts}, but a bank needs at least 2: some are held out.")
    if tokens is not None and tokens < 2:
        raise ConfigError(f"tokens is {tokens}, but a text needs at least 2: one predicts the other.")


def check_bank_of(bank: AnchorBank, fingerprint: BaseFingerprint, folder: Path, model_name: str) -> None:
    """Refuse a bank that another base has written.

    Raises:
        BaseMismatchError: naming both.
    """
    if not fingerprint.fits(dict(bank.base)):
        raise BaseMismatchError(
            f"the anchor bank in {folder} was written by {bank.base.get('model')} with other weights than "
            f"{model_name}; make one of this model's own with: secura anchors {model_name} --out FOLDER"
        )


def _wanted(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    *,
    prompts: Sequence[Sequence[int]],
    given: Sequence[Item],
    texts: int | None,
    tokens: int | None,
    seed: int,
    conversations: bool = True,
) -> Wanted:
    suited = default_size(sum(weight.numel() for weight in model.parameters()))
    count = texts or suited[0]
    own = [example_from_item(tokenizer, item) for item in given]
    context = context_length(model, tokenizer)
    return Wanted(
        texts=count,
        tokens=tokens or suited[1],
        seed=seed,
        prompts=random.Random(f"anchors/{seed}").sample(prompts, min(count, len(prompts))),
        given=[(example.tokens[:context], 1) for example in own],
        conversations=conversations,
    )


def _prompts_of(examples: Sequence[Example]) -> list[list[int]]:
    """The prompts of rows, each once; a plain text has none."""
    prompts = dict.fromkeys(tuple(each.tokens[: each.learned_from]) for each in examples)
    return [list(prompt) for prompt in prompts if prompt]


def _whole_bank(
    folder: Path,
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    wanted: Wanted,
    base: dict[str, str],
    console: Console,
    *,
    mend: bool = False,
) -> AnchorBank:
    """The bank in a folder with its teacher, either written now where it is missing or, where it may be, damaged."""
    try:
        bank = read_bank(folder) if holds_bank(folder) else None
    except ConfigError as problem:
        if not mend:
            raise
        console.print(f"note: {problem}", highlight=False, markup=False, soft_wrap=True)
        bank = None
    if bank is None:
        with _progress(console, "anchors: the base writes its own text", wanted.texts) as advance:
            bank = write_texts(
                model,
                tokenizer,
                wanted,
                base=base,
                unfinished=folder.with_name(f"{folder.name}.writing"),
                on_progress=advance,
            )
        write_bank(folder, bank)
    try:
        Teacher(folder, bank)
    except ConfigError:
        with (
            _progress(console, "anchors: the base reads its own text", len(bank.texts)) as advance,
            in_evaluation_mode(model),
        ):
            write_teacher(folder, model, bank, on_progress=advance)
    return bank


class _progress:
    """A bar in a terminal, one line elsewhere."""

    def __init__(self, console: Console, what: str, total: int) -> None:
        self.bar = Progress(console=console, transient=True, disable=not console.is_terminal)
        self.what, self.total = what, total
        if not console.is_terminal:
            console.print(f"{what} ({total} texts)", highlight=False)

    def __enter__(self) -> Callable[[int], None]:
        self.bar.start()
        task = self.bar.add_task(self.what, total=self.total)
        return lambda count: self.bar.advance(task, count)

    def __exit__(self, *error: object) -> None:
        self.bar.stop()
