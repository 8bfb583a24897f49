"""Multiple choice: which of the choices a model finds most likely after the question.

Each choice's log-likelihood is the sum over its tokens, in nats, given the prompt. Two
answers come of one pass, and the question says which of them counts (`Question.by_length`):

- the choice of highest sum (`accuracy`; lm-evaluation-harness calls it `acc`);
- the choice of highest sum divided by its length in characters, without the space that joins
  it to the prompt (`accuracy_by_length`; the harness's `acc_norm`. Its `acc_bytes`, which
  divides by UTF-8 bytes, is the same where choices are ASCII).

The prompt goes through the model once, whatever the number of choices: its last logits score
every choice's first token, and the rest of a longer choice reads on from the prompt's cache.
Models with sliding windows, recurrent states or virtual tokens have no cache that can be
copied row by row, and read each choice behind the whole prompt.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer

from secura.adapters.broken_weight import first_broken_weight
from secura.errors import DataError, SecuraError
from secura.evaluation.batch_size import BatchSize, Wanted, in_batches, longest_first, row_cost
from secura.evaluation.causal_model import (
    Model,
    accepted_inputs,
    called_model,
    context_length,
    has_virtual_tokens,
    vocabulary_size,
)
from secura.evaluation.hidden_states import hidden_states
from secura.evaluation.log_likelihoods import sum_log_likelihoods, summed_log_likelihoods
from secura.tasks.prompting import answer_tokens, pad_token_of, prompt_tokens
from secura.tasks.question import Question

_READS_A_CACHE = frozenset({"input_ids", "attention_mask", "position_ids", "past_key_values", "use_cache"})


@dataclass(frozen=True, kw_only=True)
class ChosenAnswer:
    """What a model makes of one question's choices."""

    likelihoods: tuple[float, ...]
    """Summed log-likelihood of each choice in nats, in the question's order."""
    by_sum: int
    """Index of the choice of highest sum; the first of equals."""
    by_length: int
    """Index of the choice of highest sum per character; the first of equals."""
    chosen: int
    """Index of the answer: one of these two, by the question's own rule."""
    tokens: int
    """How many tokens the choices have together."""
    prompt_cut: bool
    """Whether the prompt lost its beginning, for want of context."""


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """A question in tokens."""

    prompt: list[int]
    choices: list[list[int]]
    cut: bool


def choose_answers(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    *,
    batch_size: BatchSize | Wanted = "auto",
    on_progress: Callable[[int], None] | None = None,
) -> list[ChosenAnswer]:
    """Score every choice of every question.

    A prompt that leaves no room for its longest choice loses its beginning. Batches are made
    by length and content, so the order of the questions has no say in any score.

    Returns:
        One answer for each question, in their order; the same for any `batch_size` up to the
        rounding of a batched product.

    Raises:
        DataError: for a choice that is longer than the model's context.
        SecuraError: if the model answers NaN.
    """
    asked = [_in_tokens(tokenizer, question, context_length(model, tokenizer)) for question in questions]
    size = batch_size if isinstance(batch_size, BatchSize) else BatchSize(batch_size, model.device)
    if all(each.prompt for each in asked) and can_copy_cache(model):
        sums = _after_shared_prompts(model, tokenizer, asked, size, on_progress)
    else:
        sums = _after_whole_prompts(model, tokenizer, asked, size, on_progress)
    if any(math.isnan(value) for own in sums for value in own):
        broken = first_broken_weight(model)
        why = (
            "its weights are finite, but their type may be too narrow"
            if broken is None
            else f"its {broken} holds NaN or infinity"
        )
        raise SecuraError(f"the model's answers are NaN, so it cannot be scored; {why}.")
    return [_chosen(question, each, own) for question, each, own in zip(questions, asked, sums, strict=True)]


def _chosen(question: Question, asked: _Asked, sums: Sequence[float]) -> ChosenAnswer:
    by_sum = _highest(sums)
    by_length = _highest([value / max(1, len(text)) for value, text in zip(sums, question.choices, strict=True)])
    return ChosenAnswer(
        likelihoods=tuple(sums),
        by_sum=by_sum,
        by_length=by_length,
        chosen=by_length if question.by_length else by_sum,
        tokens=sum(map(len, asked.choices)),
        prompt_cut=asked.cut,
    )


def can_copy_cache(model: Model) -> bool:
    """Whether every layer keeps all keys and values of a row, so that a copied row goes on where the first stood."""
    if has_virtual_tokens(model) or not accepted_inputs(model) >= _READS_A_CACHE:
        return False
    try:
        layers = DynamicCache(config=called_model(model).config).layers
    except (AttributeError, KeyError, TypeError, ValueError):  # a configuration that names no layers
        return False
    return all(type(layer) is DynamicLayer for layer in layers)


def _highest(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)


def _in_tokens(tokenizer: PreTrainedTokenizerBase, question: Question, context: int | None) -> _Asked:
    prompt = prompt_tokens(tokenizer, question.asked)
    choices = [answer_tokens(tokenizer, question.asked, choice, end=False) for choice in question.choices]
    if context is None:
        return _Asked(prompt=prompt, choices=choices, cut=False)
    longest = max(map(len, choices))
    if longest > context:
        raise DataError(
            f"a choice of the question {question.prompt[:60]!r} has {longest} tokens, but the model reads "
            f"{context} at most; leave the question out, or use a model with a longer context."
        )
    room = context + 1 - longest  # the last token of a choice is predicted, not read
    return _Asked(prompt=prompt[-room:], choices=choices, cut=len(prompt) > room)


def _after_whole_prompts(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[_Asked],
    size: BatchSize,
    on_progress: Callable[[int], None] | None,
) -> list[list[float]]:
    """Every choice behind the whole prompt: for any model, at the price of reading the prompt again and again."""
    pairs = [(each.prompt, choice) for each in asked for choice in each.choices]
    question_of = [index for index, each in enumerate(asked) for _ in each.choices]
    missing = [len(each.choices) for each in asked]

    def count(scored: list[int]) -> None:
        for pair in scored:
            missing[question_of[pair]] -= 1
        if on_progress:
            on_progress(sum(missing[question] == 0 for question in {question_of[pair] for pair in scored}))

    found = iter(sum_log_likelihoods(model, tokenizer, pairs, batch_size=size, on_scored=count))
    return [[next(found) for _ in each.choices] for each in asked]


@torch.inference_mode()
def _after_shared_prompts(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[_Asked],
    size: BatchSize,
    on_progress: Callable[[int], None] | None,
) -> list[list[float]]:
    """Every choice behind a prompt that is read once."""
    # Alike questions are read once: two places in one batch may round in two ways.
    places: dict[tuple[int | tuple[int, ...], ...], list[int]] = {}
    for index, each in enumerate(asked):
        places.setdefault((*each.prompt, *map(tuple, each.choices)), []).append(index)
    distinct = [asked[indices[0]] for indices in places.values()]
    owners = list(places.values())
    vocabulary = vocabulary_size(model)
    longest = [max(map(len, each.choices)) for each in distinct]
    costs = [row_cost(len(each.prompt) + last, last, vocabulary) for each, last in zip(distinct, longest, strict=True)]
    sums: list[list[float]] = [[] for _ in asked]

    def score(batch: list[int]) -> None:
        found = _batch_sums(model, pad_token_of(tokenizer), [distinct[at] for at in batch], size)
        for at, own in zip(batch, found, strict=True):
            for index in owners[at]:
                sums[index] = own
        if on_progress:
            on_progress(sum(len(owners[at]) for at in batch))

    rows = [[*each.prompt, *(token for choice in each.choices for token in choice)] for each in distinct]
    in_batches(longest_first(rows, costs), costs, size, score)
    return sums


def _batch_sums(model: Model, pad: int, batch: Sequence[_Asked], size: BatchSize) -> list[list[float]]:
    read = _read_prompts(model, pad, batch)
    places = [row for row, each in enumerate(batch) for _ in each.choices]
    choices = [choice for each in batch for choice in each.choices]
    # An empty choice is certain: its sum is that of no tokens.
    firsts = torch.tensor([choice[0] if choice else 0 for choice in choices], device=read.first.device)
    found = read.first[places, firsts].tolist()
    sums = [value if choice else 0.0 for value, choice in zip(found, choices, strict=True)]
    # Choices of a question that differ in their last token alone, which is never read, are read once.
    alike: dict[tuple[int, ...], list[int]] = {}
    for at, choice in enumerate(choices):
        if len(choice) > 1:
            alike.setdefault((places[at], *choice[:-1]), []).append(at)
    longer = sorted(alike.values(), key=lambda members: -len(choices[members[0]]))
    done, vocabulary = 0, vocabulary_size(model)
    while done < len(longer):
        kept = len(choices[longer[done][0]])
        some = longer[done : done + size.count(row_cost(read.width + kept, kept, vocabulary))]
        rest = _rest_of_choices(
            model, pad, read, [places[members[0]] for members in some], [[choices[at] for at in each] for each in some]
        )
        for at, value in zip((at for members in some for at in members), rest, strict=True):
            sums[at] += value
        done += len(some)
    own = iter(sums)
    return [[next(own) for _ in each.choices] for each in batch]


@dataclass(frozen=True, kw_only=True)
class _ReadPrompts:
    """Prompts that went through the model, padded on the left."""

    first: Tensor
    """Log-probabilities of what follows each prompt, in float32, (rows, vocabulary)."""
    cache: Any
    """Keys and values of every layer; None where every choice is one token."""
    mask: Tensor
    """1 where a token stands, (rows, width)."""

    @property
    def width(self) -> int:
        """Tokens of the longest prompt."""
        return self.mask.shape[1]


def _read_prompts(model: Model, pad: int, batch: Sequence[_Asked]) -> _ReadPrompts:
    width = max(len(each.prompt) for each in batch)
    filled = [width - len(each.prompt) for each in batch]
    tokens = [[pad] * fill + each.prompt for fill, each in zip(filled, batch, strict=True)]
    mask = torch.tensor([[0] * fill + [1] * (width - fill) for fill in filled], device=model.device)
    inputs: dict[str, Any] = {
        "input_ids": torch.tensor(tokens, device=model.device),
        "use_cache": any(len(choice) > 1 for each in batch for choice in each.choices),
    }
    if any(filled):
        inputs["attention_mask"] = mask
        # A padded row begins at position 0, as it does alone.
        inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    if "logits_to_keep" in accepted_inputs(model):
        inputs["logits_to_keep"] = 1
    output = called_model(model)(**inputs)
    return _ReadPrompts(
        first=output.logits[:, -1].log_softmax(-1, dtype=torch.float32),
        cache=output.past_key_values if inputs["use_cache"] else None,
        mask=mask,
    )


def _rest_of_choices(
    model: Model, pad: int, read: _ReadPrompts, rows: Sequence[int], alike: Sequence[Sequence[list[int]]]
) -> list[float]:
    """Log-likelihood of each choice's second token and all after it, reading on from its prompt's row.

    Args:
        model: what reads them.
        pad: a token to fill up with.
        read: the prompts.
        rows: for each group of choices, its prompt.
        alike: groups of choices of one question that differ in their last token alone.

    Returns:
        One number a choice, group after group.
    """
    device = model.device
    longest = max(len(choices[0]) for choices in alike) - 1
    filled = [longest + 1 - len(choices[0]) for choices in alike]
    tokens = [[*choices[0][:-1], *[pad] * fill] for choices, fill in zip(alike, filled, strict=True)]
    counted = torch.tensor([[1] * (longest - fill) + [0] * fill for fill in filled], device=device)
    selected = torch.tensor(rows, device=device)
    mask = read.mask[selected]
    rest = hidden_states(
        called_model(model),
        {
            "input_ids": torch.tensor(tokens, device=device),
            "attention_mask": torch.cat([mask, counted], dim=1),
            "position_ids": mask.sum(1, keepdim=True) + torch.arange(longest, device=device),
            "past_key_values": _copied_rows(read.cache, selected),
            "use_cache": True,
        },
    )
    group = [number for number, choices in enumerate(alike) for _ in choices]
    said = [choice[1:] for choices in alike for choice in choices]
    return summed_log_likelihoods(rest, group, [0] * len(group), said)


def _copied_rows(cache: Any, rows: Tensor) -> DynamicCache:
    """A cache of its own that holds the given rows: reading on must not change the prompts'."""
    copied = DynamicCache()
    for layer_index, layer in enumerate(cache.layers):
        chosen = rows.to(layer.keys.device)  # a model may be spread over several devices
        copied.update(layer.keys[chosen], layer.values[chosen], layer_index)
    return copied
