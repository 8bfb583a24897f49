"""How likely a model finds a continuation of a context: the one number that choices and texts are scored by.

Rows are padded on the right and no mask is passed: in a causal model nothing looks ahead, so
padding that comes later changes no score, whatever the architecture. The last token of a row
is predicted but never read, so rows that differ in it alone go through the model once.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from secura.evaluation.batch_size import BatchSize, Wanted, in_batches, longest_first, row_cost
from secura.evaluation.causal_model import Model, accepted_inputs, called_model, start_tokens, vocabulary_size
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
    # Logits are kept from the end of the shortest context on.
    kept = [len(row) + 1 - min(len(started[index][0]) for index in of_row[at]) for at, row in enumerate(rows)]
    vocabulary = vocabulary_size(model)
    costs = [row_cost(len(row), keep, vocabulary) for row, keep in zip(rows, kept, strict=True)]
    size = batch_size if isinstance(batch_size, BatchSize) else BatchSize(batch_size, model.device)
    sums = [0.0] * len(pairs)

    def score(batch: list[int]) -> None:
        own = [rows[at] for at in batch]
        width = max(map(len, own))
        keep = width + 1 - min(len(rows[at]) + 1 - kept[at] for at in batch)
        predicted = _predictions(model, tokenizer, own, width, keep)
        indices = [index for at in batch for index in of_row[at]]
        places = [row for row, at in enumerate(batch) for _ in of_row[at]]
        firsts = [len(started[index][0]) - 1 - (width - keep) for index in indices]
        found = _summed(predicted, places, firsts, [started[index][1] for index in indices])
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


def _predictions(
    model: Model, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Sequence[int]], width: int, keep: int
) -> Tensor:
    """Log-probabilities of what follows each of the last `keep` places, in float32, (rows, keep, vocabulary)."""
    pad = pad_token_of(tokenizer)
    tokens = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows], device=model.device)
    inputs: dict[str, Any] = {"input_ids": tokens, "use_cache": False}
    if "logits_to_keep" in accepted_inputs(model):  # spares the logits of the context, by far the largest tensor
        inputs["logits_to_keep"] = keep
    logits = called_model(model)(**inputs).logits
    # From the end: virtual tokens of an adapter stand before the row.
    return logits[:, -keep:].log_softmax(-1, dtype=torch.float32)


def _summed(
    predicted: Tensor, places: Sequence[int], firsts: Sequence[int], continuations: Sequence[Sequence[int]]
) -> list[float]:
    """Sum what each continuation scores, from its first place on in its row."""
    longest = max(map(len, continuations))
    wanted = torch.tensor([[*each, *[0] * (longest - len(each))] for each in continuations], device=predicted.device)
    counted = torch.tensor([[True] * len(each) + [False] * (longest - len(each)) for each in continuations])
    row = torch.tensor(places, device=predicted.device)[:, None]
    place = torch.tensor(firsts, device=predicted.device)[:, None] + torch.arange(longest, device=predicted.device)
    found = predicted[row, place.clamp(max=predicted.shape[1] - 1), wanted]
    # On the CPU, since not every device has float64; and not by multiplying, since −∞ times 0 is no number.
    return found.cpu().double().where(counted, 0.0).sum(1).tolist()
