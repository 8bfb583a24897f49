import gc
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from adapted_models import (
    adapted,
    inputs,
    llama,
    llama_config,
    logits,
    one_conv1d,
    outputs,
    small_config,
    two_linears,
)
from peft import LoraConfig, get_peft_model
from tiny_models import tiny_model
from torch.testing import assert_close

from secura.evaluation.merged import merged_for_scoring

LORA = LoraConfig(init_lora_weights=False, target_modules=["q_proj", "v_proj"])


def test_merging_for_scoring_gives_the_adapted_model_and_leaves_the_base_to_the_bit() -> None:
    model = tiny_model()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    adapted = get_peft_model(model, LoraConfig(init_lora_weights=False, target_modules=["q_proj", "v_proj"]))
    adapted.eval()
    tokens = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        unmerged = adapted(tokens).logits
        with merged_for_scoring(adapted) as merged:
            assert merged
            assert_close(adapted(tokens).logits, unmerged, rtol=1e-4, atol=1e-4)  # another order of sums
        assert torch.equal(adapted(tokens).logits, unmerged)
    for name, weight in adapted.get_base_model().state_dict().items():
        plain = name.replace("base_layer.", "")
        if "lora_" not in name:
            assert torch.equal(weight, before[plain])


@pytest.mark.parametrize("build", [two_linears, one_conv1d])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("norm", ["none", "paper", "bounded"])
def test_secura_is_merged_for_scoring_and_its_base_comes_back_to_the_bit(
    norm: str, dtype: torch.dtype, build: Any
) -> None:
    base, model = build(dtype=dtype), adapted(build(dtype=dtype), small_config(norm=norm))
    x = inputs(dtype=dtype)
    unmerged = outputs(model, x)
    with merged_for_scoring(model) as merged:
        assert merged
        assert not torch.equal(outputs(model, x), outputs(base, x))
    assert torch.equal(outputs(model, x), unmerged)
    with model.disable_adapter():
        assert torch.equal(outputs(model, x), outputs(base, x))


@pytest.mark.parametrize("config", [small_config(), LoraConfig(target_modules=["first", "second"])])
def test_each_adapted_weight_is_held_twice_while_merged(config: Any) -> None:
    model: Any = get_peft_model(two_linears(), config)  # type: ignore[arg-type]  # any module can be adapted

    def held() -> int:
        gc.collect()
        weights = [one for one in gc.get_objects() if issubclass(type(one), torch.Tensor) and one.shape == (17, 33)]
        return len({weight.untyped_storage().data_ptr() for weight in weights})

    elsewhere = held() - 1
    with merged_for_scoring(model):
        assert held() - elsewhere == 2
    assert held() - elsewhere == 1


def test_an_adapter_that_refuses_to_merge_is_scored_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    config = LoraConfig(init_lora_weights=False, target_modules=["q_proj", "v_proj"])
    adapted = get_peft_model(tiny_model(), config).eval()
    layers = [module for module in adapted.modules() if hasattr(module, "merge") and hasattr(module, "lora_A")]

    def refuse(*_: object, **__: object) -> None:
        raise ValueError("this norm acts on activations")

    monkeypatch.setattr(layers[-1], "merge", refuse)  # the others are merged by then
    tokens = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        unmerged = adapted(tokens).logits
        with merged_for_scoring(adapted) as merged:
            assert not merged
            assert torch.equal(adapted(tokens).logits, unmerged)


@pytest.mark.parametrize(("config", "can_be_merged"), [(llama_config(), True), (LORA, False)], ids=["secura", "lora"])
def test_an_offloaded_model_is_merged_only_where_its_base_comes_back_to_the_bit(
    config: Any, can_be_merged: bool
) -> None:
    base, model = llama(), get_peft_model(llama(), config).eval()
    cpu_offload(model)
    unmerged = logits(model)
    with merged_for_scoring(model) as merged:
        assert merged == can_be_merged
        assert_close(logits(model), unmerged, rtol=1e-4, atol=1e-4)  # another order of sums
    assert torch.equal(logits(model), unmerged)
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(base))
