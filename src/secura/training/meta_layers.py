"""Layers on the meta device, where tensors have a shape and no memory: alike ones, and attention as a GPU does it.

Of layers that are alike the first few are built and the others stand for them, since building is what costs time.
"""

from collections.abc import Hashable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

FUSED_ATTENTION = "secura_plan"
"""The name by which transformers knows attention in one operation on the meta device."""


class LikeLayer(nn.Module):
    """Stands where a layer like an earlier one is, and holds nothing itself."""

    def __init__(self, like: nn.Module) -> None:
        super().__init__()
        self._like = [like]  # in a list, so that its weights are not counted as this layer's own

    @property
    def like(self) -> nn.Module:
        """The earlier layer."""
        return self._like[0]

    def __getattr__(self, name: str) -> Any:
        # Models ask their layers things such as the kind of their attention.
        if "_like" not in self.__dict__:  # while it is copied
            raise AttributeError(name)
        return getattr(self.like, name)


def let_layers_stand_for_others(layers: nn.ModuleList) -> None:
    """Keep layers until every kind was there, and one more of each: before the first adapted layer nothing
    takes a gradient, and behind it everything does.
    """
    signatures = [signature(layer) for layer in layers]
    kinds = set(signatures)
    seen, again = set[Hashable](), dict[Hashable, nn.Module]()
    for index, kind in enumerate(signatures):
        if kind in again:
            layers[index] = LikeLayer(again[kind])
        elif seen == kinds:
            again[kind] = layers[index]
        seen.add(kind)


def whole(module: nn.Module) -> Iterator[nn.Module]:
    """Modules that have together what the whole module has: itself, and each layer that another stands for again."""
    yield module
    for inner in module.modules():
        if isinstance(inner, LikeLayer):
            yield inner.like


def all_weights(module: nn.Module) -> list[nn.Parameter]:
    """Every weight of a module, as often as the whole module has its like."""
    return [weight for part in whole(module) for weight in part.parameters()]


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The stack of a model's layers: its longest list of modules."""
    return max((module for module in model.modules() if isinstance(module, nn.ModuleList)), key=len)


def signature(layer: nn.Module) -> Hashable:
    """What two layers share that take the same step."""
    return tuple(
        (
            name,
            type(module),
            tuple((key, value) for key, value in vars(module).items() if key != "layer_idx" and _is_plain(value)),
            tuple((weight.shape, weight.dtype, weight.requires_grad) for weight in module.parameters(recurse=False)),
            tuple((buffer.shape, buffer.dtype) for buffer in module.buffers(recurse=False)),
        )
        for name, module in layer.named_modules()
    )


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


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


AttentionInterface.register(FUSED_ATTENTION, _attention)
AttentionMaskInterface.register(FUSED_ATTENTION, sdpa_mask)
