from collections import Counter
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from secura.experiments.comparison.plan.meta_model import model_on_meta
from secura.experiments.methods.adapters import attach_adapter
from secura.training.meta_layers import LikeLayer, all_weights, decoder_layers

SIZES = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def test_counting_leaves_the_config_and_its_attention_as_they_were() -> None:
    config = LlamaConfig(**SIZES)
    before = config.to_dict()
    model_on_meta(config, "lora", {"r": 8}, torch.bfloat16)
    assert config.to_dict() == before
    assert AutoModelForCausalLM.from_config(config).config._attn_implementation == "sdpa"


@pytest.mark.parametrize("method", ["secura", "secura-paper", "cabr-lora", "cur-lora", "bounded-lora", "lora", "dora"])
def test_as_many_weights_are_trained_on_the_meta_device_as_in_memory(method: str) -> None:
    config, adapter = LlamaConfig(**SIZES), {"r": 8, "target_modules": ["q_proj", "v_proj"]}
    real = attach_adapter(AutoModelForCausalLM.from_config(config), method, adapter)  # type: ignore[arg-type]
    meta = model_on_meta(config, method, adapter, torch.float32)  # type: ignore[arg-type]
    assert _trained(list(real.parameters())) == _trained(all_weights(meta))


def _trained(weights: list[torch.nn.Parameter]) -> Counter[Any]:
    return Counter((weight.shape, weight.dtype) for weight in weights if weight.requires_grad)


def test_an_adapter_that_may_mean_single_layers_by_name_finds_every_layer() -> None:
    def built(adapter: dict[str, Any]) -> int:
        layers = decoder_layers(model_on_meta(LlamaConfig(**SIZES), "lora", adapter, torch.float32))
        return sum(not isinstance(layer, LikeLayer) for layer in layers)

    assert built({"r": 8, "target_modules": ["q_proj", "v_proj"]}) == 2
    assert built({"r": 8, "target_modules": ["q_proj"], "layers_to_transform": [2]}) == 5
    assert built({"r": 8, "rank_pattern": {"layers.3.self_attn.q_proj": 4}}) == 5
    assert built({"r": 8, "target_modules": ["layers.3.self_attn.q_proj"]}) == 5
    assert built({"r": 8, "target_modules": r".*\.3\.self_attn\.q_proj"}) == 5
