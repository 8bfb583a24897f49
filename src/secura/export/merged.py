"""A whole model in transformers' format, the adapter merged into it for good."""

from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secura.export.tuned_weights import NOTHING_DRAWN_BACK, DrawnBack, merge_into_

SHARD_SIZE = "4GB"
"""Largest file of weights."""


def merged_model(
    model: PreTrainedModel | PeftModel, *, adapted_dtype: torch.dtype | None, drawn_back: DrawnBack = NOTHING_DRAWN_BACK
) -> PreTrainedModel:
    """The model without PEFT's wrapping, an adapter merged in.

    Args:
        model: a model, or a base with an adapter, which is overwritten.
        adapted_dtype: of the weights that were adapted; None for that of the base.
        drawn_back: what the dial has left over; of no use without an adapter.

    Raises:
        MergeError: if no single weight equals the adapter.
    """
    return merge_into_(model, adapted_dtype, drawn_back) if isinstance(model, PeftModel) else model


def save_merged(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    dtype: torch.dtype | None,
    shard_size: str = SHARD_SIZE,
    state: dict[str, Tensor] | None = None,
) -> None:
    """Write weights in safetensors, configuration, generation settings, tokenizer and chat template.

    Args:
        model: without an adapter, unless `state` is given; cast in place.
        tokenizer: what it is asked with.
        folder: an existing folder.
        dtype: of every weight; None leaves each as it is.
        shard_size: largest file of weights, such as 4GB.
        state: the weights by name, where an adapter stands in them for now; None is the model's own.
    """
    if dtype is not None:
        model.to(dtype=dtype)  # type: ignore[call-arg]  # transformers wraps nn.Module.to
    model.save_pretrained(str(folder), max_shard_size=shard_size, state_dict=state)
    tokenizer.save_pretrained(str(folder))
