"""The rows of a run as its model reads them: in tokens, within the context, some of them held out."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from secura.adapters.corda import CALIBRATION_TEXTS
from secura.errors import ConfigError, DataError
from secura.evaluation.certificate import check_items
from secura.evaluation.retention_gate import check_gate_can_open
from secura.experiments.data import (
    TaskRows,
    calibration_items,
    hold_out,
    read_mixed,
    read_retention,
    read_task,
)
from secura.experiments.methods.adapters import reads_texts_first
from secura.experiments.settings.run import TrainingConfig
from secura.experiments.settings.sequence import LearningConfig, SequenceConfig
from secura.experiments.settings.task_order import ordered_tasks
from secura.tasks.prompting import prompt_text
from secura.tasks.question import Item, Question
from secura.training.examples import Example, LearnedTurns, example_from_item, fit_to_context, learned_turns
from secura.training.packing import packs

ASK_MORE_KNOWLEDGE = "raise retention.per_family, or give --retain more questions"
"""How the user asks more, where too few questions tell nothing."""

STEER, SELECT, CERTIFY = 0.15, 0.25, 0.6
"""Shares of the questions that the base answers right: these steer the training, these choose how much of it is used,
and these certify. How much can be shown to be kept is up to the last alone."""

_FEW_STEPS = 30
"""Fewer steps than this teach little, and a user who has not asked for them is told."""


@dataclass(frozen=True, kw_only=True)
class PreparedTask:
    """One task, read and checked."""

    name: str
    """What it is called in the report."""
    examples: list[Example]
    """What is trained on, in tokens."""
    test: list[Item]
    """What the gain on it is measured on."""
    steps: int
    """Optimizer steps that it is learned in."""
    gradient_accumulation: int = 1
    """Forward passes a step."""
    packed_tokens: int | None = None
    """Tokens of the rows that examples share; None where each has a row of its own."""


def read_rows(config: LearningConfig) -> list[TaskRows]:
    """Read the rows of every task, in the order they are learned.

    Raises:
        InputError: if a file or task cannot be used.
    """
    bundled, seed, test_rows = config.model.path is None, config.training.seed, config.data.test_rows
    columns = config.data.columns
    if isinstance(config, SequenceConfig):
        return [
            read_task(
                name,
                bundled_model=bundled,
                seed=seed,
                test_rows=test_rows,
                bundled_rows=config.data.train_rows,
                columns=columns,
            )
            for name in ordered_tasks(config)
        ]
    data = config.data
    rows = read_task(
        data.path,
        bundled_model=bundled,
        seed=seed,
        test_rows=test_rows,
        split=data.split,
        test_path=data.test_path,
        columns=columns,
    )
    return [replace(rows, mixed=read_mixed(data.mix, bundled_model=bundled, seed=seed))] if data.mix else [rows]


def retention_of(config: LearningConfig) -> list[Item]:
    """The questions about what must not be lost.

    Raises:
        ConfigError: if they are too few to show that `retention.min_retention` is kept.
        DataError: if a file cannot be used.
    """
    wanted = config.retention
    items = read_retention(
        wanted.path,
        bundled_model=config.model.path is None,
        per_family=wanted.per_family,
        seed=config.training.seed,
    )
    if wanted.min_retention is not None:
        questions = sum(isinstance(item, Question) for item in items)
        check_gate_can_open(wanted.min_retention, questions, ask_more=ASK_MORE_KNOWLEDGE)
    return items


def check_keep_can_be_shown(keep: float, retention: Sequence[Item]) -> None:
    """Refuse a share that so few questions could not show to be kept, whatever the base knows.

    Raises:
        ConfigError: saying how many are needed.
    """
    questions = sum(isinstance(item, Question) for item in retention)
    check_items(keep, items=round(CERTIFY * questions), ask_more=ASK_MORE_KNOWLEDGE)


def longest_row(wanted: int | None, context: int | None) -> int:
    """How many tokens a row may have: `data.max_length`, or the model's whole context.

    Raises:
        ConfigError: if neither is known, or the model reads less than is wanted.
    """
    if wanted is None and context is None:
        raise ConfigError("neither model nor tokenizer says how long a row may be; set data.max_length.")
    if wanted is not None and context is not None and wanted > context:
        raise ConfigError(f"data.max_length is {wanted}, but the model reads {context} tokens at most.")
    return wanted or context or 0


def fit_task(
    config: LearningConfig,
    name: str,
    rows: TaskRows,
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
    notes: list[str],
) -> PreparedTask:
    """Turn a task's rows into examples and questions that fit the context, and count its steps.

    Adds to `notes` what the user should know, such as rows that were dropped.

    Raises:
        DataError: if a row is too long and `data.too_long` is refuse.
    """
    data = config.data
    fitted = fit_to_context(
        examples_of(rows.train, tokenizer, data.turns, source=rows.name),
        max_tokens=max_tokens,
        too_long=data.too_long,
        source=rows.name,
    )
    notes.extend(notes_on_rows(rows, tokenizer, data.turns))
    if fitted.too_long:
        done = "dropped" if data.too_long == "drop" else "truncated"
        notes.append(
            f"{fitted.too_long} of {len(rows.train)} rows are longer than {max_tokens} tokens, {done} "
            f"(longest {fitted.longest})"
        )
    examples = fitted.examples
    if rows.test is not None:
        if data.too_long == "refuse":
            fit_to_context(
                [example_from_item(tokenizer, item) for item in rows.test],
                max_tokens=max_tokens,
                too_long="refuse",
                source=f"the test questions of {rows.name}",
            )
            test = rows.test
        else:
            test = that_fit_whole(rows.test, tokenizer, max_tokens)
        if len(test) < len(rows.test):
            notes.append(
                f"{len(rows.test) - len(test)} test rows are longer than {max_tokens} tokens and are not asked"
            )
    else:
        items = [rows.train[index] for index in fitted.kept]
        rest, held = hold_out(items, share=data.test_share, at_most=data.test_rows, seed=config.training.seed)
        # A truncated question is another question, so it is learned from but not asked.
        test = [items[index] for index in held if fitted.lengths[fitted.kept[index]] <= max_tokens]
        examples = [examples[index] for index in rest]
    examples = _with_mixed(examples, rows, config, tokenizer, max_tokens, notes)
    if isinstance(config, SequenceConfig) and len(examples) > config.data.train_rows:
        examples = random.Random(f"rows/{config.training.seed}").sample(examples, config.data.train_rows)
    packed_tokens = max_tokens if config.training.packing else None
    packed = len(examples) if packed_tokens is None else len(packs(examples, packed_tokens))
    training = with_accumulation(config.training, packed, sum(len(example.tokens) for example in examples), notes)
    steps = count_steps(training, packed, rows.suggested_steps)
    if training.steps is None and steps < _FEW_STEPS:
        notes.append(_few_steps(training, name, packed, steps))
    return PreparedTask(
        name=name,
        examples=examples,
        test=test,
        steps=steps,
        gradient_accumulation=training.gradient_accumulation,
        packed_tokens=packed_tokens,
    )


def examples_of(
    items: Sequence[Item], tokenizer: PreTrainedTokenizerBase, turns: LearnedTurns, *, source: str
) -> list[Example]:
    """Each item in tokens.

    Raises:
        DataError: if the chat template cannot write one, with its row.
    """
    examples = []
    for number, item in enumerate(items, start=1):
        try:
            examples.append(example_from_item(tokenizer, item, turns=turns))
        except DataError as problem:
            raise DataError(f"{source}, row {number}: {problem}") from problem
    return examples


def _with_mixed(
    examples: list[Example],
    rows: TaskRows,
    config: LearningConfig,
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
    notes: list[str],
) -> list[Example]:
    """The examples with those of `data.mix` after them, as many as make their shares."""
    own = 1 - sum(mixed.share for mixed in rows.mixed)
    told = [f"{own:.0%} {Path(rows.name).name} ({len(examples):,} rows)"]
    mixture = list(examples)
    for mixed in rows.mixed:
        fitted = fit_to_context(
            examples_of(mixed.rows, tokenizer, config.data.turns, source=mixed.name),
            max_tokens=max_tokens,
            too_long=config.data.too_long,
            source=mixed.name,
        ).examples
        wanted = round(len(examples) * mixed.share / own)
        times, rest = divmod(wanted, len(fitted))
        mixture += fitted * times + random.Random(f"mix/{mixed.name}/{config.training.seed}").sample(fitted, rest)
        repeated = f", each up to {times + (rest > 0)} times" if wanted > len(fitted) else ""
        told.append(f"{mixed.share:.0%} {Path(mixed.name).name} ({wanted:,} rows of its {len(mixed.rows):,}{repeated})")
    if rows.mixed:
        notes.append(f"what is learned is {told[0]}, and replayed beside it {', '.join(told[1:])}")
    return mixture


def notes_on_rows(rows: TaskRows, tokenizer: PreTrainedTokenizerBase, turns: LearnedTurns) -> list[str]:
    """What the user should know of the rows: columns that are not used, and what the tokenizer cannot write."""
    notes = []
    if rows.unused:
        notes.append(
            f"not used of {Path(rows.name).name}: {', '.join(rows.unused)}; data.columns maps a column to one that is"
        )
    if tokenizer.chat_template:
        return notes + _notes_on_tools(rows.train, tokenizer)
    several = sum(learned_turns(item) > 1 for item in rows.train)
    if several and turns == "all":
        notes.append(
            f"the tokenizer has no chat template, so of the {several} rows with several assistant turns only the last "
            "is learned"
        )
    if any(isinstance(item, Question) and item.tools for item in rows.train):
        notes.append("the tokenizer has no chat template, so the model is not shown the tools of a row")
    return notes


def _notes_on_tools(items: Sequence[Item], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What a chat template that knows no tools does with them: nothing."""
    called = next((item for item in items if isinstance(item, Question) and item.tools), None)
    if called is None or prompt_text(tokenizer, called.asked) != prompt_text(tokenizer, called.turns):
        return []
    return ["the tokenizer's chat template shows no tools, so the model does not see the tools of the rows"]


def refuse_long_questions(
    items: Sequence[Item], tokenizer: PreTrainedTokenizerBase, max_tokens: int, *, source: str
) -> None:
    """Refuse retention questions that do not fit the context: cut, they would be other questions."""
    fit_to_context(
        [example_from_item(tokenizer, item) for item in items],
        max_tokens=max_tokens,
        too_long="refuse",
        source=source,
        way_out="shorten or remove them",
    )


def that_fit_whole(items: Sequence[Item], tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> list[Item]:
    """The questions that fit the context with their answers."""
    return [item for item in items if len(example_from_item(tokenizer, item).tokens) <= max_tokens]


def with_accumulation(training: TrainingConfig, rows: int, tokens: int, notes: list[str]) -> TrainingConfig:
    """The settings with as many forward passes a step as come nearest to `tokens_per_step`.

    Args:
        training: the settings; as they are where they name no tokens.
        rows: how many rows there are, packed ones counted as one.
        tokens: of all rows together.
        notes: is told what comes of it.
    """
    wanted = training.tokens_per_step
    if wanted is None:
        return training
    a_pass = tokens / max(rows, 1) * training.batch_size
    passes = max(1, round(wanted / a_pass))
    notes.append(
        f"a forward pass of {training.batch_size} rows has {a_pass:,.0f} tokens, so a step has {passes} of them: "
        f"{passes * a_pass:,.0f} tokens"
    )
    return training.model_copy(update={"gradient_accumulation": passes})


def count_steps(training: TrainingConfig, rows: int, suggested: int | None = None) -> int:
    """Optimizer steps of a task: as set, as its rows suggest, or as many as its epochs take, rounded up."""
    if training.steps is not None:
        return training.steps
    if training.epochs is None and suggested is not None:
        return suggested
    return max(1, math.ceil(rows / _rows_a_step(training) * (training.epochs or 1.0)))


def _few_steps(training: TrainingConfig, name: str, rows: int, steps: int) -> str:
    enough = math.ceil(100 * _rows_a_step(training) / max(rows, 1))
    return (
        f"{name} has {rows} rows, which make {steps} steps of {_rows_a_step(training)} rows; so few teach little: "
        f"training.epochs={enough} makes about 100 steps"
    )


def _rows_a_step(training: TrainingConfig) -> int:
    return training.batch_size * training.gradient_accumulation


def starts_from_own_texts(config: LearningConfig) -> bool:
    """Whether an adapter's columns and rows are chosen by what the base makes of texts that it writes itself."""
    method = config.method
    if method.name == "corda" or method.calibration is not None or isinstance(config, SequenceConfig):
        return False
    is_bundled = config.model.path is None and config.strategy.name != "own_text"  # which has knowledge to be asked
    return reads_texts_first(method.name, method.adapter) and not is_bundled


def calibration_texts(
    config: LearningConfig,
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
    own_texts: Sequence[Sequence[int]] = (),
) -> Sequence[Sequence[int]]:
    """What the base reads before an adapter starts, in tokens; nothing for most of them.

    Args:
        config: of the run.
        tokenizer: the base's.
        max_tokens: that a row may have.
        own_texts: the base's own, where the adapter starts from them.
    """
    if own_texts or not reads_texts_first(config.method.name, config.method.adapter):
        return own_texts
    bundled = config.model.path is None
    items = calibration_items(config.method.calibration, bundled_model=bundled, seed=config.training.seed)
    return [example_from_item(tokenizer, item).tokens[:max_tokens] for item in items[:CALIBRATION_TEXTS]]
