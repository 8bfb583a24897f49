"""The weights of a model under an adapter, one module at a time, in float32.

What an adapter of SECURA makes of a weight, it says itself. Any other method of PEFT is merged
into a copy of its one layer in float32, so that its change is rounded once, and by whoever writes it.

A point of the dial other than all that was learned is set on the adapter itself by `secura.adapters.dial.scale_`; the
layers that it leaves over are drawn back here.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from secura.adapters.secura.layer import SecuraLayer
from secura.errors import ConfigError, MergeError
from secura.numerics.finite import all_finite

_PEFT_PREFIX = "base_model.model."

DrawnBack = Mapping[str, float]
"""Layers whose weight is W0 + s (W' - W0) instead of W', by name, with s; see `secura.adapters.dial.scale_`."""

NOTHING_DRAWN_BACK: DrawnBack = MappingProxyType({})
"""Every layer as the adapter says."""


@dataclass(frozen=True, kw_only=True)
class TunedLayer:
    """One adapted module, before and after, in the layout that its base layer stores."""

    name: str
    """Its name in the base model."""
    module: BaseTunerLayer
    """The module with its adapter."""
    adapter: str
    """The active adapter's name."""
    before: Tensor
    """Weight of the base, float32 or wider."""
    after: Tensor
    """Weight under the adapter, float32 or wider."""
    bias: Tensor | None
    """Bias under the adapter, float32; None where the base layer has none."""
    bias_change: Tensor | None
    """What the adapter adds to the bias, float32; None where it trains none."""

    @property
    def is_transposed(self) -> bool:
        """Whether the base layer stores (in, out), as GPT-2's does."""
        return isinstance(self.module.get_base_layer(), Conv1D)


def active_adapter(model: PeftModel) -> str:
    """Name of the one active adapter.

    Raises:
        ConfigError: if there are several.
    """
    names = model.active_adapters
    if len(names) != 1:
        raise ConfigError(f"active adapters are {names}; activate the one to export with set_adapter.")
    return str(names[0])


@torch.no_grad()
def tuned_layers(model: PeftModel, drawn_back: DrawnBack = NOTHING_DRAWN_BACK) -> Iterator[TunedLayer]:
    """Every adapted module in the order of the model, computed as it is asked for.

    Args:
        model: a base with an adapter that is not merged.
        drawn_back: what the dial has left over.

    Raises:
        MergeError: for a method that no single weight equals, or that changes no weight at all.
    """
    adapter = active_adapter(model)
    if model.active_peft_config.is_prompt_learning:
        raise MergeError(
            f"{model.active_peft_config.peft_type} learns virtual tokens and changes no weight, so it can only be "
            "served by PEFT itself."
        )
    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer) and adapter in _adapters_of(module):
            plain = name.removeprefix(_PEFT_PREFIX)
            yield _tuned_layer(plain, module, adapter, drawn_back.get(plain, 1.0))


def changes_more_than_weights(model: PeftModel) -> list[str]:
    """Names of modules that the adapter trained whole (`modules_to_save`), which no LoRA holds."""
    return [
        name.removeprefix(_PEFT_PREFIX)
        for name, module in model.named_modules()
        if isinstance(module, ModulesToSaveWrapper) and active_adapter(model) in module.modules_to_save
    ]


@torch.no_grad()
def merge_into_(
    model: PeftModel, dtype: torch.dtype | None, drawn_back: DrawnBack = NOTHING_DRAWN_BACK
) -> PreTrainedModel:
    """Merge the adapter for good, one layer at a time, and take PEFT's wrapping off.

    Each merged weight is computed in float32 and rounded once, to `dtype`. The base is
    overwritten: beside it, one layer is held.

    Args:
        model: a base with an adapter that is not merged; of no use afterwards.
        dtype: of the merged weights; None keeps each weight's own. The rest is left as it is.
        drawn_back: what the dial has left over.

    Raises:
        MergeError: if no single weight equals the adapter, or a merged weight is not finite.
    """
    for layer in tuned_layers(model, drawn_back):
        base: Any = layer.module.get_base_layer()
        if not all_finite(layer.after):
            raise MergeError(
                f"the merged weight of {layer.name} holds NaN or infinity; the adapter seems to be broken."
            )
        _replace(base, "weight", layer.after, dtype)
        if layer.bias is not None:
            _replace(base, "bias", layer.bias, dtype)
    merged: Any = model.unload()
    return merged


def _adapters_of(module: BaseTunerLayer) -> set[str]:
    return {name for attribute in module.adapter_layer_names for name in getattr(module, attribute, {})}


def _tuned_layer(name: str, module: BaseTunerLayer, adapter: str, share: float) -> TunedLayer:
    before = _wide(module.get_base_weight())
    base_bias: Tensor | None = getattr(module.get_base_layer(), "bias", None)
    bias = None if base_bias is None else _wide(base_bias)
    bias_change: Tensor | None = None
    if isinstance(module, SecuraLayer):
        after = module.effective_weight(adapter)
        after = after.T if isinstance(module.get_base_layer(), Conv1D) else after
        trained = module._change(adapter).bias
        if trained is not None:
            bias_change = share * _wide(trained)
            if bias is None:
                raise MergeError(
                    f"the adapter trained an output bias for {name}, but the base layer has none to merge it into; "
                    "train with output_bias=False."
                )
            bias = bias + bias_change
    else:
        after, merged_bias = _merged_copy(name, module, adapter)
        if bias is not None and merged_bias is not None:
            bias_change = share * (merged_bias - bias)
            bias = bias + bias_change
            bias_change = bias_change if bias_change.any() else None
    if share != 1:
        after = before + share * (after - before)
    return TunedLayer(
        name=name, module=module, adapter=adapter, before=before, after=after, bias=bias, bias_change=bias_change
    )


def _merged_copy(name: str, module: BaseTunerLayer, adapter: str) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a copy of one layer, merged in float32."""
    if getattr(module, "quantization_backend", None) is not None:
        raise MergeError(
            f"the base layer {name} is quantized, and {type(module).__name__} can be merged into plain weights alone; "
            "export it from the base in 16 or 32 bits."
        )
    alone: Any = copy.deepcopy(module)
    alone.float()
    try:
        alone.merge(safe_merge=False, adapter_names=[adapter])
    except (NotImplementedError, TypeError, ValueError, AttributeError) as problem:
        reason = " ".join(str(problem).split())[:200]
        raise MergeError(f"the adapter cannot be merged into {name}: {reason}") from problem
    base = alone.get_base_layer()
    bias = getattr(base, "bias", None)
    return base.weight.detach(), None if bias is None else bias.detach()


def _wide(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))


def _replace(base: nn.Module, name: str, value: Tensor, dtype: torch.dtype | None) -> None:
    old = getattr(base, name)
    value = value.to(device=old.device, dtype=old.dtype if dtype is None else dtype).contiguous()
    if isinstance(old, nn.Parameter) and not old.is_meta:
        old.data = value  # in place, so that what is tied to it stays tied
    else:
        setattr(base, name, nn.Parameter(value, requires_grad=False))
