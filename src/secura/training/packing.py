"""Short rows in one: TRL's packing, and its batches without padding.

TRL fits rows into as few of `max_tokens` as it can (best fit, the longest first) and lets those of a
batch follow one another. Positions begin at 0 with each row, by which transformers' attention masks
keep one row from seeing another; flash attention is told where they begin.

Both are TRL's own functions: `trl.pack_dataset` and its collator for language modelling.
"""

from collections.abc import Sequence
from typing import Any

from secura.training.examples import Example


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


def _rows(kind: Any, examples: Sequence[Example]) -> Any:
    return kind.from_dict(
        {"input_ids": [example.tokens for example in examples], "labels": [example.labels for example in examples]}
    )
