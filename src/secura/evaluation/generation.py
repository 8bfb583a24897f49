"""Free answers: greedy decoding that ends at an end-of-sequence token, a stop string, or the limit of tokens.

The right answer has no part in it. A stop string ends an answer wherever it appears in what
was generated, across tokens or inside one, and is no part of the answer; the prompt's own
text never counts. An answer that meets neither an end nor a stop string is truncated, and
counted as such.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase
from transformers.generation.stopping_criteria import StoppingCriteria, StoppingCriteriaList

from secura.evaluation.batch_size import BatchSize, Wanted, in_batches, longest_first, row_cost
from secura.evaluation.causal_model import (
    Model,
    called_model,
    context_length,
    has_virtual_tokens,
    start_tokens,
    vocabulary_size,
)
from secura.tasks.prompting import end_tokens, pad_token_of

_LEAST_ROOM_SHARE = 16
"""A prompt is cut once it leaves less than a sixteenth of the context for the answer, unless less is asked for."""


@dataclass(frozen=True, kw_only=True)
class GeneratedAnswer:
    """What a model answered."""

    text: str
    """The answer up to its end or its first stop string, white space as it came."""
    tokens: int
    """How many tokens were generated, the end among them."""
    truncated: bool
    """Whether the limit of tokens, or of the context, cut it."""
    prompt_cut: bool
    """Whether the prompt lost its beginning, for want of context."""


@torch.inference_mode()
def generate_answers(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    stop: Sequence[str] = (),
    batch_size: BatchSize | Wanted = "auto",
    least_room: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> list[GeneratedAnswer]:
    """Continue each prompt greedily.

    Args:
        model: any causal language model, with or without an adapter.
        tokenizer: tells what ends an answer, and what the tokens say.
        prompts: tokens of each prompt.
        max_tokens: where an answer is cut.
        stop: strings that end an answer; empty ones are left aside.
        batch_size: rows at once.
        least_room: tokens that an answer is left at least, by cutting the beginning of a
            prompt; None is `max_tokens` or a sixteenth of the context, whichever is less.
        on_progress: called with the number of prompts just answered.

    Returns:
        One answer for each prompt, in their order; the same for any `batch_size` up to the
        rounding of a batched product.
    """
    context = context_length(model, tokenizer)
    size = batch_size if isinstance(batch_size, BatchSize) else BatchSize(batch_size, model.device)
    # Alike prompts are answered once: two places in one batch may round in two ways.
    places: dict[tuple[int, ...], list[int]] = {}
    for index, prompt in enumerate(prompts):
        places.setdefault(tuple(prompt), []).append(index)
    fitted = [_fitted(tokenizer, prompt, context, max_tokens, least_room) for prompt in places]
    owners = list(places.values())
    answers: dict[int, GeneratedAnswer] = {}

    def answer(batch: list[int]) -> None:
        own = _answers(model, tokenizer, [fitted[at] for at in batch], stop)
        answers.update((index, said) for at, said in zip(batch, own, strict=True) for index in owners[at])
        if on_progress:
            on_progress(sum(len(owners[at]) for at in batch))

    vocabulary = vocabulary_size(model)
    costs = [row_cost(len(each.prompt) + each.room, 1, vocabulary) for each in fitted]
    # Rows that are left different room go apart, or one's room would cut another's answer. Behind
    # virtual tokens padding would shift every place, so there only rows of one length go together.
    virtual = has_virtual_tokens(model)
    kinds = [(each.room, len(each.prompt) if virtual else 0) for each in fitted]
    for kind in sorted(set(kinds)):
        members = [at for at, own in enumerate(kinds) if own == kind]
        order = longest_first([fitted[at].prompt for at in members], [costs[at] for at in members])
        in_batches([members[at] for at in order], costs, size, answer)
    return [answers[index] for index in range(len(prompts))]


@dataclass(frozen=True, kw_only=True)
class _Fitted:
    """A prompt that fits the context, and how many tokens its answer may have."""

    prompt: list[int]
    room: int
    cut: bool


def _fitted(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Sequence[int],
    context: int | None,
    max_tokens: int,
    least_room: int | None,
) -> _Fitted:
    prompt = list(prompt) or start_tokens(tokenizer) or [pad_token_of(tokenizer)]
    if context is None:
        return _Fitted(prompt=prompt, room=max_tokens, cut=False)
    least = min(max_tokens, least_room or context // _LEAST_ROOM_SHARE or 1)
    kept = prompt[-max(1, context - least) :]
    return _Fitted(prompt=kept, room=max(1, min(max_tokens, context - len(kept))), cut=len(kept) < len(prompt))


def _answers(
    model: Model, tokenizer: PreTrainedTokenizerBase, batch: Sequence[_Fitted], stop: Sequence[str]
) -> list[GeneratedAnswer]:
    width, pad = max(len(each.prompt) for each in batch), pad_token_of(tokenizer)
    filled = [width - len(each.prompt) for each in batch]
    tokens = [[pad] * fill + each.prompt for fill, each in zip(filled, batch, strict=True)]
    mask = [[0] * fill + [1] * (width - fill) for fill in filled]
    stops = _stop_strings(tokenizer, stop)
    ends = answer_ends(model, tokenizer)
    at_stop = _AtStopString(tokenizer, stops, width)
    with plain_settings(model) as plain:
        output = plain.generate(
            input_ids=torch.tensor(tokens, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            generation_config=GenerationConfig(
                max_new_tokens=batch[0].room,
                do_sample=False,
                num_beams=1,
                eos_token_id=ends or None,
                pad_token_id=pad,
                use_cache=True,
            ),
            stopping_criteria=StoppingCriteriaList([at_stop]) if stops else None,
        )
    rows = output[:, width:].tolist()
    return [
        _read(tokenizer, row, ends, stops, at_stop.stopped_after.get(number), each)
        for number, (row, each) in enumerate(zip(rows, batch, strict=True))
    ]


def _read(
    tokenizer: PreTrainedTokenizerBase,
    row: list[int],
    ends: list[int],
    stops: Sequence[str],
    stopped_after: int | None,
    asked: _Fitted,
) -> GeneratedAnswer:
    """What a row says: its own tokens only, since rows that ended are padded until the last one does."""
    ended_after = next((place + 1 for place, token in enumerate(row) if token in ends), None)
    known = [count for count in (ended_after, stopped_after) if count is not None]
    count = min(known, default=len(row))
    text = str(tokenizer.decode(row[:count], skip_special_tokens=True))
    return GeneratedAnswer(
        text=text[: _first_stop(text, stops)],
        tokens=count,
        truncated=not known,
        prompt_cut=asked.cut,
    )


def _first_stop(text: str, stops: Sequence[str]) -> int:
    """Where the first stop string begins; the text's length where none does."""
    return min((place for place in (text.find(stop) for stop in stops) if place >= 0), default=len(text))


def _stop_strings(tokenizer: PreTrainedTokenizerBase, stop: Sequence[str]) -> tuple[str, ...]:
    """The task's, and what closes a turn of a chat template in several tokens, which no end token catches."""
    closing = end_tokens(tokenizer)
    closed = str(tokenizer.decode(closing, skip_special_tokens=True)) if len(closing) > 1 else ""
    return tuple(each for each in (*stop, closed) if each)


def answer_ends(model: Model, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Whatever ends an answer for this model or this tokenizer."""
    own: Any = getattr(model.generation_config, "eos_token_id", None)
    closing = end_tokens(tokenizer)
    of_tokenizer: Any = tokenizer.eos_token_id
    found = {
        of_tokenizer,
        *(own if isinstance(own, list) else [own]),
        *(closing if len(closing) == 1 else []),
    }
    return sorted(int(token) for token in found if token is not None)


@contextmanager
def plain_settings(model: Model) -> Iterator[Any]:
    """The model to call, without generation settings of its own.

    A model's own settings, such as a repetition penalty, would fill whatever greedy
    decoding leaves open; and PEFT's `generate` puts them back from its own copy.
    """
    called = called_model(model)
    holders = [called, called.get_base_model()] if isinstance(called, PeftModel) else [called]
    own = [holder.generation_config for holder in holders]
    for holder in holders:
        holder.generation_config = GenerationConfig()
    try:
        yield called
    finally:
        for holder, settings in zip(holders, own, strict=True):
            holder.generation_config = settings


class _AtStopString(StoppingCriteria):
    """Stops each row at its first stop string, and remembers after how many tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: tuple[str, ...], prompt_tokens: int) -> None:
        self.tokenizer = tokenizer
        self.stops = stops
        self.prompt_tokens = prompt_tokens
        self.stopped_after: dict[int, int] = {}
        self.may_end = torch.tensor(_tokens_that_may_end(tokenizer, stops), dtype=torch.long)

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:  # type: ignore[override]
        del scores, kwargs
        self.may_end = self.may_end.to(input_ids.device)
        for row in torch.isin(input_ids[:, -1], self.may_end).nonzero()[:, 0].tolist():
            generated = input_ids[row, self.prompt_tokens :]
            # Special tokens too: a stop string may be one that this tokenizer does not end with.
            if row not in self.stopped_after and any(
                stop in str(self.tokenizer.decode(generated, skip_special_tokens=skip))
                for stop in self.stops
                for skip in (True, False)
            ):
                self.stopped_after[row] = len(generated)
        stopped = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        stopped[list(self.stopped_after)] = True
        return stopped


@lru_cache(maxsize=4)  # a second or two for a vocabulary of 150 000
def _tokens_that_may_end(tokenizer: PreTrainedTokenizerBase, stops: tuple[str, ...]) -> list[int]:
    """Tokens that can be the last of a stop string: those with its last character, or with part of one."""
    last = {stop[-1] for stop in stops} | {"\N{REPLACEMENT CHARACTER}"}
    every_token = range(len(tokenizer))
    if " " in last:  # a tokenizer may drop the space of a token that is decoded alone
        return list(every_token)
    return [token for token in every_token if last & set(str(tokenizer.decode([token])))]
