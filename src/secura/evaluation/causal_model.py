"""What scoring asks of a model: how to call it, how much it reads, and to leave it as it was."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peft import PeftModel
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

Model = PreTrainedModel | PeftModel


def called_model(model: Model) -> Any:
    """The module to call: inside PEFT's wrapper, whose own signature tells nothing.

    An adapter of virtual tokens lives in the wrapper itself, so there the wrapper is called.
    """
    if isinstance(model, PeftModel) and not has_virtual_tokens(model):
        return model.get_base_model()
    return model


def has_virtual_tokens(model: Model) -> bool:
    """Whether an adapter puts learned tokens before every prompt, as prompt and prefix tuning do."""
    return isinstance(model, PeftModel) and bool(model.active_peft_config.is_prompt_learning)


def accepted_inputs(model: Model) -> frozenset[str]:
    """Names of what the model's forward pass takes; few for an adapter of virtual tokens."""
    return frozenset(inspect.signature(called_model(model).forward).parameters)


def context_length(model: Model, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Tokens that the model can read at once, or None where neither it nor its tokenizer says."""
    inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    known = stated_context(inner.config, tokenizer)
    if known is None:
        return None
    virtual: Any = model.active_peft_config.num_virtual_tokens if has_virtual_tokens(model) else 0  # type: ignore[union-attr]
    return known - int(virtual or 0)


def stated_context(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Tokens that a model of this config reads at once, or None where neither it nor its tokenizer says."""
    inner: Any = config.get_text_config()
    limits = [getattr(inner, name, None) for name in ("max_position_embeddings", "n_positions", "seq_length")]
    limits.append(tokenizer.model_max_length)
    # A tokenizer that knows no limit says 10³⁰.
    known = [limit for limit in limits if isinstance(limit, int) and 0 < limit < 10**9]
    return min(known) if known else None


def start_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What stands before a text that nothing comes before: the beginning-of-sequence token.

    Where a tokenizer has none, the end-of-sequence token, by which texts were parted in
    pretraining; no token where it has neither.
    """
    own: list[Any] = [tokenizer.bos_token_id, tokenizer.eos_token_id]
    return [int(token) for token in own if token is not None][:1]


def vocabulary_size(model: Model) -> int:
    """How many numbers the model puts out for a token."""
    inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    return int(inner.config.get_text_config().vocab_size)


@contextmanager
def in_evaluation_mode(model: Model) -> Iterator[None]:
    """Without dropout, for as long as it is scored."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
