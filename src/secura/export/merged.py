"""A whole model in transformers' format, the adapter merged into it for good."""

from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secura.errors import ConfigError
from secura.export.tuned_weights import merge_into_

SHARD_SIZE = "4GB"
"""Largest file of weights."""


def is_quantized(model: PreTrainedModel | PeftModel) -> bool:
    """Whether weights of a model are stored in fewer bits than they compute in."""
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    return getattr(inner, "hf_quantizer", None) is not None


def merged_model(
    model: PreTrainedModel | PeftModel, *, adapted_dtype: torch.dtype | None, scale: float = 1.0
) -> PreTrainedModel:
    """The model without PEFT's wrapping, an adapter merged in.

    Args:
        model: a model, or a base with an adapter, which is overwritten.
        adapted_dtype: of the weights that were adapted; None for that of the base.
        scale: multiplies what was learned; of no use without an adapter.

    Raises:
        ConfigError: for a scale without an adapter.
        MergeError: if no single weight equals the adapter.
    """
    if isinstance(model, PeftModel):
        return merge_into_(model, adapted_dtype, scale)
    if scale != 1:
        raise ConfigError(
            f"the scale is {scale}, but a whole model tells no change that it could multiply; leave it out."
        )
    return model


def save_merged(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    dtype: torch.dtype,
    shard_size: str = SHARD_SIZE,
) -> None:
    """Write weights in safetensors, configuration, generation settings, tokenizer and chat template.

    Args:
        model: without an adapter; cast in place.
        tokenizer: what it is asked with.
        folder: an existing folder.
        dtype: of every weight.
        shard_size: largest file of weights, such as 4GB.
    """
    model.to(dtype=dtype)  # type: ignore[call-arg]  # transformers wraps nn.Module.to
    model.save_pretrained(str(folder), max_shard_size=shard_size)
    tokenizer.save_pretrained(str(folder))
