"""What a model's head reads, and the head itself, so that logits are made a chunk of positions at a time.

The hidden states are caught inside the model's own forward pass, so adapters, autocast and the hooks that move or
gather weights act as ever; the pass itself makes the logits of one position. A head is used apart from its model only
after the two have given the same logits. Else, and where its weight is divided among processes, the model's own
logits stand in for the hidden states, and the head leaves them as they are.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from secura.adapters.sharding import is_sharded
from secura.evaluation.causal_model import accepted_inputs, has_virtual_tokens
from secura.numerics.chunks import Measure, over_chunks, positions_at_once

Where = Tensor | tuple[Tensor, Tensor]

_known: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
"""For each model that was tried, whether its head alone gives its logits."""


@dataclass(frozen=True, kw_only=True)
class HiddenStates:
    """What stands before a model's head, for a batch."""

    states: Tensor
    """Shape (batch, tokens, width)."""
    to_logits: Callable[[Tensor], Tensor]
    """The head: from (positions, width) to (positions, vocabulary)."""
    vocabulary: int
    """How many logits a position has."""
    head_is_trained: bool
    """Whether a weight of the head wants a gradient."""

    def measured(self, measure: Measure, where: Where, *known: Tensor) -> Tensor:
        """`measure(logits, *known)` of chosen positions, chunk by chunk.

        Args:
            measure: one number a position, from its logits and what else is known of it.
            where: the positions: bool, shape (batch, tokens), or the rows and the columns of each.
            known: one row for each chosen position.
        """
        return over_chunks(
            lambda hidden, *others: measure(self.to_logits(hidden), *others),
            self.states[where],
            *known,
            positions=positions_at_once(self.vocabulary),
            head_is_trained=self.head_is_trained,
        )


def as_hidden_states(logits: Tensor) -> HiddenStates:
    """Logits that are there already, shape (batch, tokens, vocabulary)."""
    return HiddenStates(states=logits, to_logits=lambda each: each, vocabulary=logits.shape[-1], head_is_trained=False)


def hidden_states(model: nn.Module, inputs: Mapping[str, Any], *, keep: int | None = None) -> HiddenStates:
    """Call the model on a batch and catch what its head reads.

    Args:
        model: a causal language model, with or without an adapter.
        inputs: what its forward pass takes, without labels.
        keep: how many positions at the end of each row are wanted; None is all.
    """
    inputs = {"use_cache": False, **inputs}
    places = slice(None) if keep is None else slice(-keep, None)
    if not has_known_head(model):
        if keep is not None and "logits_to_keep" in _accepted(model):
            inputs["logits_to_keep"] = keep
        # From the end: virtual tokens of an adapter stand before the row.
        return as_hidden_states(model(**inputs).logits[:, places])
    with catch_hidden_states(model) as caught:
        model(**inputs, logits_to_keep=1)
    found = caught.taken()
    assert found is not None
    return HiddenStates(
        states=found.states[:, places],
        to_logits=found.to_logits,
        vocabulary=found.vocabulary,
        head_is_trained=found.head_is_trained,
    )


class CaughtStates:
    """The hidden states of a model's last forward pass."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._last: tuple[Tensor, bool, torch.dtype] | None = None

    def keep(self, module: nn.Module, args: Any, output: Any) -> None:
        """A forward hook on the model below the head."""
        del module, args
        states: Tensor = output[0] if isinstance(output, tuple) else output.last_hidden_state
        kind = states.device.type
        # Outside the model's own forward pass autocast may be off again.
        self._last = states, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)

    def taken(self) -> HiddenStates | None:
        """Hand the states over, once; None where there were none since."""
        last, self._last = self._last, None
        if last is None:
            return None
        states, autocast, dtype = last
        head, finish = _head(self._model), _after_head(self._model)

        def to_logits(each: Tensor) -> Tensor:
            with torch.autocast(each.device.type, dtype=dtype, enabled=autocast):
                return finish(head(each))

        return HiddenStates(
            states=states,
            to_logits=to_logits,
            vocabulary=int(_config(self._model).vocab_size),
            head_is_trained=any(weight.requires_grad for weight in head.parameters()),
        )


@contextmanager
def catch_hidden_states(model: nn.Module) -> Iterator[CaughtStates]:
    """Catch the hidden states of every forward pass; of none where the head is not known."""
    caught = CaughtStates(model)
    handle = _below_head(model).register_forward_hook(caught.keep) if has_known_head(model) else None
    try:
        yield caught
    finally:
        if handle is not None:
            handle.remove()


def has_known_head(model: nn.Module) -> bool:
    """Whether the head may be used apart from the model: tried once, on two tokens."""
    inner = _inner(model)
    if inner is None or isinstance(model, FSDPModule) or isinstance(inner, FSDPModule):
        return False
    if any(is_sharded(weight) for weight in _head(model).parameters()):
        return False
    if inner not in _known:
        _known[inner] = _gives_the_same_logits(inner)
    return _known[inner]


@torch.no_grad()
def _gives_the_same_logits(inner: Any) -> bool:
    tokens = torch.zeros((1, 2), dtype=torch.long, device=inner.get_input_embeddings().weight.device)
    caught = CaughtStates(inner)
    handle = _below_head(inner).register_forward_hook(caught.keep)
    try:
        logits = inner(input_ids=tokens, use_cache=False, logits_to_keep=1).logits
    finally:
        handle.remove()
    found = caught.taken()
    if found is None:
        return False
    own = found.to_logits(found.states[:, -1:])
    if own.shape != logits.shape:
        return False
    rounding = 8 * torch.finfo(torch.bfloat16 if own.dtype != logits.dtype else logits.dtype).eps
    return bool((own.float() - logits.float()).abs().max() <= rounding * logits.float().abs().max())


def _inner(model: nn.Module) -> Any:
    """The causal language model, where its parts can be told apart; else None."""
    if isinstance(model, PeftModel) and has_virtual_tokens(model):
        return None
    inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    if not hasattr(inner, "get_decoder") or getattr(inner.config, "is_encoder_decoder", False):
        return None
    if inner.get_output_embeddings() is None or inner.get_decoder() is inner:
        return None
    return inner if "logits_to_keep" in accepted_inputs(inner) else None


def _accepted(model: nn.Module) -> frozenset[str]:
    return accepted_inputs(model) if hasattr(model, "config") else frozenset()  # type: ignore[arg-type]


def _head(model: nn.Module) -> nn.Module:
    return _inner(model).get_output_embeddings()


def _below_head(model: nn.Module) -> nn.Module:
    return _inner(model).get_decoder()


def _config(model: nn.Module) -> Any:
    return _inner(model).config.get_text_config()


def _after_head(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """What some families do to their logits: Cohere and Granite scale them, Gemma caps them."""
    config = _config(model)
    factor = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    cap = getattr(config, "final_logit_softcapping", None)

    def finish(logits: Tensor) -> Tensor:
        if factor != 1.0:
            logits = logits * factor
        return logits if not cap else torch.tanh(logits / cap) * cap

    return finish
