"""A model with its adapter on the meta device, where tensors have a shape and no memory.

One step on it costs seconds whatever its size, and says exactly how many weights are trained,
what autograd keeps for the backward pass, and how many operations the step takes.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.masking_utils import sdpa_mask

from secura.experiments.methods.adapters import attach_adapter
from secura.experiments.settings.names import MethodName

_ATTENTION = "secura_plan"


@dataclass(frozen=True, kw_only=True)
class StepCount:
    """What one forward and backward pass takes; sizes in bytes."""

    saved_in_layers: int
    """What autograd keeps inside the decoder layers, weights not counted."""
    saved_elsewhere: int
    """What it keeps outside them: embeddings, head, loss."""
    layers: int
    """How many decoder layers there are."""
    forward_flops: int
    """Operations of the forward pass; a multiplication with its addition is two."""
    backward_flops: int
    """Operations of the backward pass."""


def model_on_meta(
    config: PretrainedConfig, method: MethodName, adapter: Mapping[str, Any], dtype: torch.dtype
) -> PreTrainedModel | PeftModel:
    """A model with the adapter of a method, without memory.

    Raises:
        ConfigError: as `attach_adapter`, such as for a rank above a layer's smaller side.
    """
    with torch.device("meta"):
        # A copy: the model keeps the config it is given, and the attention chosen below is for counting only.
        model = AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=dtype)
        if model.config._attn_implementation == "sdpa":
            model.set_attn_implementation(_ATTENTION)
        model.requires_grad_(False)
        return attach_adapter(model, *_shaped_alike(method, adapter))


def _shaped_alike(method: MethodName, adapter: Mapping[str, Any]) -> tuple[MethodName, Mapping[str, Any]]:
    """CorDA starts from calibration text and is a plain LoRA by its shapes."""
    return ("lora", adapter) if method == "corda" else (method, adapter)


def count_step(model: PreTrainedModel | PeftModel, *, batch: int, tokens: int) -> StepCount:
    """Take one step of `batch` rows of `tokens` tokens on a meta model, and count.

    Every row is taken to be as long as the longest, and the loss to fall on every token.
    """
    inputs = torch.zeros(batch, tokens, dtype=torch.long, device="meta")
    # A mask that is ready to use: to make one, transformers would look at values.
    mask = torch.zeros(batch, 1, tokens, tokens, dtype=model.dtype, device="meta")
    layers = decoder_layers(model)
    model.train()
    forward, backward = _counter(), _counter()
    with _saved_bytes(model, layers) as saved, forward:
        loss = model(input_ids=inputs, labels=inputs, attention_mask=mask, use_cache=False).loss
    with backward:
        loss.backward()
    for weight in model.parameters():
        weight.grad = None
    return StepCount(
        saved_in_layers=saved["layers"],
        saved_elsewhere=saved["elsewhere"],
        layers=len(layers),
        forward_flops=forward.get_total_flops(),
        backward_flops=backward.get_total_flops(),
    )


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The stack of a model's layers: its longest list of modules."""
    return max((module for module in model.modules() if isinstance(module, nn.ModuleList)), key=len)


def _counter() -> FlopCounterMode:
    forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    return FlopCounterMode(
        display=False, custom_mapping={forward: _attention_flops, backward: _attention_backward_flops}
    )


def _attention_flops(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward_flops(
    gradient: Any, query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any
) -> int:
    return sdpa_backward_flop_count(gradient, query, key, value)


@contextmanager
def _saved_bytes(model: nn.Module, layers: nn.ModuleList) -> Iterator[dict[str, int]]:
    """Sizes of the distinct storages that autograd saves in this block, those of the model left out."""
    counted = {each.untyped_storage()._cdata for each in (*model.parameters(), *model.buffers())}
    saved = {"layers": 0, "elsewhere": 0}
    place = ["elsewhere"]
    kept: list[Tensor] = []  # so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in counted:
            counted.add(storage._cdata)
            kept.append(tensor)
            saved[place[0]] += storage.nbytes()
        return tensor

    def enter(*_: Any) -> None:
        place[0] = "layers"

    def leave(*_: Any) -> None:
        place[0] = "elsewhere"

    handles = [layer.register_forward_pre_hook(enter) for layer in layers]
    handles += [layer.register_forward_hook(leave) for layer in layers]
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield saved
    finally:
        for handle in handles:
            handle.remove()


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention in one fused operation, as a GPU does it; on the meta device torch would not choose it.

    Keys and values are repeated for grouped heads, as transformers does wherever rows are padded.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = (each.repeat_interleave(groups, dim=1) if groups > 1 else each for each in (key, value))
    output, _ = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, True, attn_mask=None, scale=scaling
    )
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(_ATTENTION, _attention)
AttentionMaskInterface.register(_ATTENTION, sdpa_mask)
