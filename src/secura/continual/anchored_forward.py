"""The batch of a step under another model, and which of its positions are prompts and answers."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from secura.evaluation.hidden_states import HiddenStates, hidden_states

_IGNORED = -100
_NOT_FOR_THE_MODEL = ("labels", "num_items_in_batch", "fused_lm_head", "use_cache", "output_router_logits")


def states_of(model: nn.Module, inputs: Mapping[str, Any]) -> HiddenStates:
    """What predicts each next token of a batch, whatever loss its trainer asked for."""
    return hidden_states(model, {name: value for name, value in inputs.items() if name not in _NOT_FOR_THE_MODEL})


def predicts_an_answer(inputs: Mapping[str, Any]) -> Tensor:
    """Positions whose next token is learned, shape (batch, tokens), bool."""
    labels: Tensor = inputs["labels"]
    learned = torch.zeros_like(labels, dtype=torch.bool)
    learned[:, :-1] = labels[:, 1:] != _IGNORED
    return learned


def predicts_a_prompt(inputs: Mapping[str, Any]) -> Tensor:
    """Positions whose next token is read and not learned, shape (batch, tokens), bool."""
    read = torch.zeros_like(inputs["labels"], dtype=torch.bool)
    real = inputs["attention_mask"][:, 1:].bool()
    read[:, :-1] = real & (inputs["labels"][:, 1:] == _IGNORED)
    return read
