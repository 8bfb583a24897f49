"""How likely a model finds a continuation of a context: the one number that choices and texts are scored by.

Rows are padded on the right and no mask is passed: in a causal model nothing looks ahead, so
padding that comes later changes no score, whatever the architecture. The last token of a row
is predicted but never read, so rows that differ in it alone go through the model once.
"""

from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedTokenizerBase

from secura.evaluation.batch_size import BatchSize, Wanted, in_batches, longest_first, row_cost
from secura.evaluation.causal_model import Model, called_model, start_tokens, vocabulary_size
from secura.evaluation.hidden_states import HiddenStates, has_known_head, hidden_states
from secura.numerics.divergence import log_probabilities_of
from secura.tasks.prompting import pad_token_of

Pair = tuple[Sequence[int], Sequence[int]]
"""Tokens of a context, and of what is scored after it."""


@torch.inference_mode()
def sum_log_likelihoods(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Pair],
    *,
    batch_size: BatchSize | Wanted = 32,
    on_scored: Callable[[list[int]], None] | None = None,
) -> list[float]:
    """log p(continuation | context) in nats, for each pair of context and continuation tokens.

    A context without tokens is given the beginning-of-sequence token, or the end-of-sequence
    token; the first token of the continuation goes unscored where the tokenizer has neither.

    Args:
        model: any causal language model, with or without an adapter.
        tokenizer: tells what stands before a context without tokens.
        pairs: what to score.
        batch_size: rows at once.
        on_scored: called with the indices of the pairs just scored.
    """
    started = [_started(tokenizer, *pair) for pair in pairs]
    members: dict[tuple[int, ...], list[int]] = {}
    for index, (context, continuation) in enumerate(started):
        if continuation:
            members.setdefault((*context, *continuation[:-1]), []).append(index)
    rows = list(members)
    of_row = list(members.values())
    # What is scored stands after the end of the shortest context.
    kept = [len(row) + 1 - min(len(started[index][0]) for index in of_row[at]) for at, row in enumerate(rows)]
    vocabulary = 0 if has_known_head(called_model(model)) else vocabulary_size(model)  # logits come in chunks then
    costs = [row_cost(len(row), keep, vocabulary) for row, keep in zip(rows, kept, strict=True)]
    size = batch_size if isinstance(batch_size, BatchSize) else BatchSize(batch_size, model.device)
    sums = [0.0] * len(pairs)

    def score(batch: list[int]) -> None:
        own = [rows[at] for at in batch]
        width = max(map(len, own))
        keep = width + 1 - min(len(rows[at]) + 1 - kept[at] for at in batch)
        read = _read(model, tokenizer, own, width, keep)
        indices = [index for at in batch for index in of_row[at]]
        places = [row for row, at in enumerate(batch) for _ in of_row[at]]
        firsts = [len(started[index][0]) - 1 - (width - keep) for index in indices]
        found = summed_log_likelihoods(read, places, firsts, [started[index][1] for index in indices])
        for index, value in zip(indices, found, strict=True):
            sums[index] = value
        if on_scored:
            on_scored(indices)

    unread = [index for index, (_, continuation) in enumerate(started) if not continuation]
    if on_scored and unread:
        on_scored(unread)
    in_batches(longest_first(rows, costs), costs, size, score)
    return sums


def _started(
    tokenizer: PreTrainedTokenizerBase, context: Sequence[int], continuation: Sequence[int]
) -> tuple[list[int], list[int]]:
    """The pair with something to begin from, or nothing left to score."""
    if context:
        return list(context), list(continuation)
    start = start_tokens(tokenizer)
    if start:
        return start, list(continuation)
    return list(continuation[:1]), list(continuation[1:])


def _read(
    model: Model, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Sequence[int]], width: int, keep: int
) -> HiddenStates:
    """What predicts the token after each of the last `keep` places, for each row."""
    pad = pad_token_of(tokenizer)
    tokens = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows], device=model.device)
    return hidden_states(called_model(model), {"input_ids": tokens}, keep=keep)


def summed_log_likelihoods(
    read: HiddenStates, places: Sequence[int], firsts: Sequence[int], continuations: Sequence[Sequence[int]]
) -> list[float]:
    """Sum what each continuation scores, from its first place on in its row.

    Args:
        read: what predicts each next token of the rows.
        places: the row of each continuation.
        firsts: the place in its row that predicts its first token.
        continuations: tokens of each.
    """
    rows = [row for row, each in zip(places, continuations, strict=True) for _ in each]
    columns = [first + place for first, each in zip(firsts, continuations, strict=True) for place in range(len(each))]
    device = read.states.device
    row, column, token = (
        torch.tensor(each, device=device)
        for each in (rows, columns, [token for each in continuations for token in each])
    )
    found = read.measured(
        lambda logits, wanted: log_probabilities_of(wanted[:, None], logits)[:, 0], (row, column), token
    )
    # On the CPU, since not every device has float64.
    return [part.sum().item() for part in found.cpu().double().split([len(each) for each in continuations])]
