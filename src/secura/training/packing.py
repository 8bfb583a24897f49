"""Short rows in one: TRL's packing, and its batches without padding.

TRL fits rows into as few of `max_tokens` as it can (best fit, the longest first) and lets those of a
batch follow one another. Positions begin at 0 with each row, by which transformers' attention masks
keep one row from seeing another; flash attention is told where they begin.

Both are TRL's own functions: `trl.pack_dataset` and its collator for language modelling. Not every model
minds positions, and none does while it keeps a cache, so a model is tried first.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from secura.errors import ConfigError
from secura.training.examples import Example

_ROUNDINGS = 16
"""How many roundings of the largest logit apart two sums of the same numbers may be."""


def packs(examples: Sequence[Example], max_tokens: int) -> Any:
    """Examples that share rows, as a data set of `input_ids`, `labels` and `seq_lengths`.

    Args:
        examples: none longer than a row.
        max_tokens: of a row.
    """
    from datasets import Dataset
    from trl.data_utils import pack_dataset

    return pack_dataset(_rows(Dataset, examples), max_tokens, "bfd", {"keep_in_memory": True})


def rows_apart(examples: Sequence[Example]) -> Any:
    """Examples with a row each, as a data set of `input_ids` and `labels`."""
    from datasets import Dataset

    return _rows(Dataset, examples)


def without_padding(pad_token: int) -> Any:
    """The collator that lets the rows of a batch follow one another."""
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    return DataCollatorForLanguageModeling(pad_token_id=pad_token, padding_free=True)


@torch.no_grad()
def refuse_rows_that_see_others(model: Any, examples: Sequence[Example], *, pad_token: int) -> None:
    """Refuse a model in which a row that follows another would see it.

    Two rows are read twice, with other tokens in the first; the second must not notice.

    Args:
        model: a causal language model, with or without an adapter.
        examples: of which the first two are read.
        pad_token: of the collator.

    Raises:
        ConfigError: if it does.
    """
    if len(examples) < 2:
        return
    first, second = examples[:2]
    other = Example(tokens=first.tokens[::-1] if first.tokens[::-1] != first.tokens else second.tokens, learned_from=0)
    was_training = model.training
    model.eval()
    try:
        read, read_again = (_logits_of_last(model, [each, second], pad_token) for each in (first, other))
    finally:
        model.train(was_training)
    allowed = _ROUNDINGS * torch.finfo(read.dtype).eps * read.abs().max()
    if not (read - read_again).abs().max() <= allowed:
        raise ConfigError(
            "in this model a row that follows another without padding would see the row before it; leave out "
            "training.packing and training.padding_free, or try another model.attn_implementation."
        )


def _logits_of_last(model: Any, examples: Sequence[Example], pad_token: int) -> Tensor:
    batch = without_padding(pad_token)(list(rows_apart(examples)))
    given = {name: value.to(model.device) if isinstance(value, Tensor) else value for name, value in batch.items()}
    given.pop("labels")
    logits: Tensor = model(**given, use_cache=False).logits
    return logits[0, -len(examples[-1].tokens) :]


def _rows(kind: Any, examples: Sequence[Example]) -> Any:
    return kind.from_dict(
        {"input_ids": [example.tokens for example in examples], "labels": [example.labels for example in examples]}
    )
