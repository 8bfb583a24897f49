"""A model with its adapter on the meta device, where tensors have a shape and no memory.

It says how many weights are held and trained, and takes a step for `step_count`. Of layers that are
alike the first few are built and the others stand for them, since building is what costs time.
"""

import copy
import json
from collections.abc import Hashable, Iterator, Mapping
from functools import cache
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
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
_SAME_IN_EVERY_LAYER = {
    *("r", "inner_r", "alpha", "tau", "floor", "norm", "change", "reference", "fold", "selection", "selection_seed"),
    *("start", "init_weights", "output_bias", "dropout", "lora_alpha", "lora_dropout", "use_rslora", "bias"),
}
"""Settings of adapters that cannot mean one layer and not another; what is not here might."""


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


def model_on_meta(
    config: PretrainedConfig, method: MethodName, adapter: Mapping[str, Any], dtype: torch.dtype
) -> PreTrainedModel | PeftModel:
    """A model with the adapter of a method, without memory; `whole` walks over all of it.

    Raises:
        ConfigError: as `attach_adapter`, such as for a rank above a layer's smaller side.
    """
    described = json.dumps(config.to_dict(), sort_keys=True, default=str), type(config), dtype
    # A copy: the adapter is put into the model itself.
    model = copy.deepcopy(_bare_model(*described, every_layer=not _is_same_in_every_layer(adapter)))
    if method == "corda":
        method = "lora"  # which it is by its shapes; it starts from calibration text
    with torch.device("meta"):
        return attach_adapter(model, method, adapter)


@cache
def _bare_model(
    described: str, kind: type[PretrainedConfig], dtype: torch.dtype, *, every_layer: bool
) -> PreTrainedModel:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(kind.from_dict(json.loads(described)), dtype=dtype)
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(_ATTENTION)
    if not every_layer:
        _let_layers_stand_for_others(decoder_layers(model))
    return model.requires_grad_(False)


def _is_same_in_every_layer(adapter: Mapping[str, Any]) -> bool:
    """Whether an adapter treats layers of the same kind in the same way, whatever their names."""
    targets = adapter.get("target_modules")
    by_last_name = isinstance(targets, list) and all(isinstance(name, str) and name.isidentifier() for name in targets)
    return adapter.keys() <= {"target_modules", *_SAME_IN_EVERY_LAYER} and (
        targets in (None, "all-linear") or by_last_name
    )


def _let_layers_stand_for_others(layers: nn.ModuleList) -> None:
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


AttentionInterface.register(_ATTENTION, _attention)
AttentionMaskInterface.register(_ATTENTION, sdpa_mask)
