"""Items become rows of tokens with a mask of what is learned.

The loss falls on the answer only, its end included; of a chat, on every assistant turn or on the
last; of plain text, on every token. A row longer than the context is refused, dropped or truncated,
as the user chose.

An earlier turn is learned where it stands in the prompt of the next one, up to how the chat template
closes a turn: the tokens are those that the model reads when it is asked for the next turn, and the
template needs no `{% generation %}` markers, which few have. A template that writes earlier turns
in another way than it asks for them, as some reasoning models' do, cannot be learned from so.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from secura.errors import DataError
from secura.tasks.prompting import (
    answer_tokens,
    end_tokens,
    following_tokens,
    prompt_text,
    prompt_tokens,
    token_ids,
    turn_closing,
)
from secura.tasks.question import Chat, Item, PlainText, Question

IGNORED = -100
"""The label that transformers' losses leave out."""

TooLong = Literal["refuse", "drop", "truncate"]
LearnedTurns = Literal["all", "last"]
"""Which of a chat's assistant turns the loss falls on."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One row of tokens; what is learned begins at `learned_from`."""

    tokens: list[int]
    """Prompt and answer, or the whole text."""
    learned_from: int
    """Index of the first token that the loss falls on."""
    left_out: tuple[tuple[int, int], ...] = ()
    """Places after it that the loss leaves out, such as the user's later turns: the first, and the first after."""

    @property
    def labels(self) -> list[int]:
        """The tokens, with those that are not learned replaced by `IGNORED`."""
        labels = [IGNORED] * self.learned_from + self.tokens[self.learned_from :]
        for first, after in self.left_out:
            labels[first:after] = [IGNORED] * (after - first)
        return labels

    @property
    def learned_tokens(self) -> int:
        """How many tokens the loss falls on."""
        return len(self.tokens) - self.learned_from - sum(after - first for first, after in self.left_out)


def example_from_labels(tokens: Sequence[int], labels: Sequence[int]) -> Example:
    """The example whose labels these are; without a learned token, nothing of it is learned."""
    learned = [place for place, label in enumerate(labels) if label != IGNORED]
    gaps = ((one + 1, other) for one, other in pairwise([*learned, len(tokens)]))
    return Example(
        tokens=list(tokens),
        learned_from=learned[0] if learned else len(tokens),
        left_out=tuple(gap for gap in gaps if gap[0] < gap[1]),
    )


def example_from_item(tokenizer: PreTrainedTokenizerBase, item: Item, *, turns: LearnedTurns = "last") -> Example:
    """Tokenize one item.

    Args:
        tokenizer: whose chat template, where it has one, writes the turns.
        item: a question or a text.
        turns: which of the assistant's turns are learned, where it is a chat of several. Without a chat template it
            is the last in any case, since nothing then says where an earlier one ends.

    Raises:
        DataError: if the chat template refuses the turns, or does not write the earlier ones as it asks for them.
    """
    if isinstance(item, PlainText):
        return Example(tokens=text_tokens(tokenizer, item.text), learned_from=0)
    try:
        earlier = _earlier_turns(item) if turns == "all" and tokenizer.chat_template else []
        if earlier:
            return _chat_example(tokenizer, item, earlier)
        prompt = prompt_tokens(tokenizer, item.asked)
        answer = answer_tokens(tokenizer, item.asked, item.answered, end=True)
    except Exception as problem:
        if type(problem).__module__.split(".")[0] != "jinja2":
            raise
        raise DataError(
            f"the tokenizer's chat template refuses the turns before {item.answer[:40]!r}: {problem}"
        ) from problem
    return Example(tokens=prompt + answer, learned_from=len(prompt))


def learned_turns(item: Item) -> int:
    """How many turns of the assistant's a row has that are to be learned; 1 for whatever is no chat."""
    return 1 if isinstance(item, PlainText) else 1 + len(_earlier_turns(item))


def _earlier_turns(item: Question) -> list[int]:
    return [
        place
        for place, turn in enumerate(item.turns)
        if turn.get("role") == "assistant" and turn.get("weight", 1) and place
    ]


def _chat_example(tokenizer: PreTrainedTokenizerBase, item: Question, earlier: Sequence[int]) -> Example:
    # Llama 2's template, among others, closes a turn with the end-of-sequence token after a space.
    closing, end = turn_closing(tokenizer) or str(tokenizer.eos_token or ""), end_tokens(tokenizer)
    places = [*earlier, len(item.turns)]
    prompts = [Chat(turns=item.turns[:place], tools=item.tools) for place in places]
    texts = [prompt_text(tokenizer, prompt) for prompt in prompts]
    tokens = prompt_tokens(tokenizer, prompts[0])
    labels = [IGNORED] * len(tokens)
    for number, (text, after) in enumerate(pairwise(texts), start=1):
        said, closed, _ = after.removeprefix(text).partition(closing) if closing else ("", "", "")
        if not closed or not after.startswith(text):
            raise DataError(
                f"the tokenizer's chat template does not write assistant turn {number} as it asks for it "
                f"({item.turns[places[number - 1]].get('content', '')[:40]!r}), so that it cannot be learned where it "
                "stands; set data.turns to last."
            )
        turn = [*following_tokens(tokenizer, text, said), *end]
        rest = following_tokens(tokenizer, text + said + closing, after[len(text + said + closing) :])
        tokens = [*tokens, *turn, *rest]
        labels = [*labels, *turn, *[IGNORED] * len(rest)]
    answer = answer_tokens(tokenizer, prompts[-1], item.answered, end=True)
    return example_from_labels([*tokens, *answer], [*labels, *answer])


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

    Truncation cuts a prompt at its beginning, so that the answer stays; an answer, or the turns from
    the first that is learned, that is too long by itself is cut at its end.

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
    cut = slice(from_prompt, from_prompt + max_tokens)
    if example.left_out:
        return example_from_labels(example.tokens[cut], example.labels[cut])
    return Example(tokens=example.tokens[cut], learned_from=example.learned_from - from_prompt)


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
