"""A model with its adapter on the meta device, where tensors have a shape and no memory.

It says how many weights are held and trained, and takes a step for `step_count`. Of layers that are
alike the first few are built and the others stand for them, since building is what costs time.
"""

import copy
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
)

from secura.experiments.methods.adapters import attach_adapter
from secura.experiments.settings.names import MethodName
from secura.training.meta_layers import FUSED_ATTENTION, decoder_layers, let_layers_stand_for_others

_SAME_IN_EVERY_LAYER = {
    *("r", "inner_r", "alpha", "tau", "floor", "norm", "change", "reference", "fold", "selection", "selection_seed"),
    *("start", "init_weights", "output_bias", "dropout", "lora_alpha", "lora_dropout", "use_rslora", "bias"),
}
"""Settings of adapters that cannot mean one layer and not another; what is not here might."""


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
        model.set_attn_implementation(FUSED_ATTENTION)
    if not every_layer:
        let_layers_stand_for_others(decoder_layers(model))
    return model.requires_grad_(False)


def _is_same_in_every_layer(adapter: Mapping[str, Any]) -> bool:
    """Whether an adapter treats layers of the same kind in the same way, whatever their names."""
    targets = adapter.get("target_modules")
    by_last_name = isinstance(targets, list) and all(isinstance(name, str) and name.isidentifier() for name in targets)
    return adapter.keys() <= {"target_modules", *_SAME_IN_EVERY_LAYER} and (
        targets in (None, "all-linear") or by_last_name
    )
