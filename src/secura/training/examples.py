"""Items become rows of tokens with a mask of what is learned.

The loss falls on the answer only, its end included; of plain text, on every token. A row
longer than the context is refused, dropped or truncated, as the user chose.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from secura.errors import DataError
from secura.tasks.prompting import answer_tokens, prompt_tokens, token_ids
from secura.tasks.question import Item, PlainText

IGNORED = -100
"""The label that transformers' losses leave out."""

TooLong = Literal["refuse", "drop", "truncate"]


@dataclass(frozen=True, kw_only=True)
class Example:
    """One row of tokens; what is learned begins at `learned_from`."""

    tokens: list[int]
    """Prompt and answer, or the whole text."""
    learned_from: int
    """Index of the first token that the loss falls on."""

    @property
    def labels(self) -> list[int]:
        """The tokens, with those that are not learned replaced by `IGNORED`."""
        return [IGNORED] * self.learned_from + self.tokens[self.learned_from :]


def example_from_item(tokenizer: PreTrainedTokenizerBase, item: Item) -> Example:
    """Tokenize one item; raises `DataError` where the chat template refuses its turns."""
    if isinstance(item, PlainText):
        return Example(tokens=text_tokens(tokenizer, item.text), learned_from=0)
    try:
        prompt = prompt_tokens(tokenizer, item.asked)
        answer = answer_tokens(tokenizer, item.asked, item.answer, end=True)
    except Exception as problem:
        if type(problem).__module__.split(".")[0] != "jinja2":
            raise
        raise DataError(
            f"the tokenizer's chat template refuses the turns before {item.answer[:40]!r}: {problem}"
        ) from problem
    return Example(tokens=prompt + answer, learned_from=len(prompt))


def text_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokens of a plain text, its end included."""
    tokens = token_ids(tokenizer, text, special=True)
    end: Any = tokenizer.eos_token_id
    return tokens if end is None or tokens[-1:] == [end] else [*tokens, end]


@dataclass(frozen=True, kw_only=True)
class FittedExamples:
    """Examples that fit the context, and what was done to make them fit."""

    examples: list[Example]
    """What is left to train on."""
    kept: list[int]
    """Index that each of them had before anything was dropped."""
    lengths: list[int]
    """Tokens of each example before anything was done."""
    too_long: int
    """How many were longer than the context: dropped or truncated."""

    @property
    def longest(self) -> int:
        """Tokens of the longest example before anything was done."""
        return max(self.lengths, default=0)


def fit_to_context(
    examples: Sequence[Example],
    *,
    max_tokens: int,
    too_long: TooLong,
    source: str,
    way_out: str = "set data.too_long to drop or truncate, or shorten them",
) -> FittedExamples:
    """Refuse, drop or truncate what is longer than the context.

    Truncation cuts a prompt at its beginning, so that the answer stays; an answer that is
    too long by itself is cut at its end.

    Raises:
        DataError: if `too_long` is "refuse" and a row is longer, with the count, the limit
            and the ways out; or if "drop" leaves nothing.
    """
    lengths = [len(example.tokens) for example in examples]
    over = [index for index, length in enumerate(lengths) if length > max_tokens]
    longest = max(lengths, default=0)
    if over and too_long == "refuse":
        raise DataError(
            f"{source}: {len(over)} of {len(lengths)} rows are longer than the context of {max_tokens} "
            f"tokens (longest {longest}, first at row {over[0] + 1}); {way_out}."
        )
    if too_long == "drop":
        kept = [index for index, length in enumerate(lengths) if length <= max_tokens]
        if not kept:
            raise DataError(
                f"{source}: all {len(lengths)} rows are longer than the context of {max_tokens} tokens; "
                "set data.too_long to truncate, or shorten them."
            )
    else:
        kept = list(range(len(examples)))
    fitted = [_truncated(examples[index], max_tokens) for index in kept]
    return FittedExamples(examples=fitted, kept=kept, lengths=lengths, too_long=len(over))


def _truncated(example: Example, max_tokens: int) -> Example:
    excess = len(example.tokens) - max_tokens
    if excess <= 0:
        return example
    from_prompt = max(0, min(excess, example.learned_from - 1))  # one token must be left to predict from
    return Example(
        tokens=example.tokens[from_prompt : from_prompt + max_tokens],
        learned_from=example.learned_from - from_prompt,
    )


@dataclass(frozen=True, kw_only=True)
class PadToLongest:
    """Collates examples into a batch, padded on the right to its longest row."""

    pad_token: int
    """The token to pad with; masked out, so any token serves."""

    def __call__(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Tokens, attention mask and labels, each of shape (examples, tokens)."""
        width = max(len(example.tokens) for example in examples)
        tokens, mask, labels = [], [], []
        for example in examples:
            missing = width - len(example.tokens)
            tokens.append(example.tokens + [self.pad_token] * missing)
            mask.append([1] * len(example.tokens) + [0] * missing)
            labels.append(example.labels + [IGNORED] * missing)
        return {
            "input_ids": torch.tensor(tokens),
            "attention_mask": torch.tensor(mask),
            "labels": torch.tensor(labels),
        }
