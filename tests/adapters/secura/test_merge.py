"""Merging into the base weight, taking it out again, and turning an adapter into a LoRA."""

import warnings
from typing import Any

import pytest
import torch
from adapted_models import (
    WEIGHT_SPACE,
    adapted,
    crossed,
    first_layer,
    gpt2,
    inputs,
    llama,
    llama_config,
    logits,
    moved,
    one_conv1d,
    outputs,
    secura_layers,
    small_config,
    two_linears,
)
from peft import PeftModel, convert_to_lora, get_peft_model, set_peft_model_state_dict
from torch import nn
from torch.testing import assert_close
from transformers.pytorch_utils import Conv1D

from secura import MergeError, fold

BASES = {"linear": two_linears, "conv1d": one_conv1d}


def two_adapters(**arguments: Any) -> PeftModel:
    model = adapted(two_linears(**arguments), small_config())
    model.add_adapter("other", small_config(norm="none", change="cur"))
    return moved(model, seed=7, adapter_name="other")


def base_weights(model: nn.Module) -> list[torch.Tensor]:
    return [layer.get_base_layer().weight.detach().clone() for layer in secura_layers(model)]


# ------------------------------------------------------------------ merge and unmerge


@pytest.mark.parametrize("base", BASES)
@crossed(WEIGHT_SPACE)
def test_merging_keeps_the_outputs_and_unmerging_restores_the_weight_to_the_bit(
    base: str, choice: dict[str, str]
) -> None:
    model = adapted(BASES[base](), small_config(**choice, alpha=6.0))
    fold(model, "one")
    moved(model, seed=4)
    before, weights = outputs(model), base_weights(model)
    model.merge_adapter()
    assert_close(outputs(model), before, rtol=1e-5, atol=1e-5)
    assert (base_weights(model)[0] - weights[0]).abs().max() > 1e-3
    model.unmerge_adapter()
    assert torch.equal(outputs(model), before)
    for restored, weight in zip(base_weights(model), weights, strict=True):
        assert torch.equal(restored, weight)


@pytest.mark.parametrize("base", [llama, gpt2])
@pytest.mark.parametrize("norm", ["none", "paper", "bounded", "row_bounded"])
def test_merged_unmerged_and_unloaded_language_models_agree(base: Any, norm: str) -> None:
    model = adapted(base(), llama_config(norm=norm))
    before = logits(model)
    model.merge_adapter()
    merged = logits(model)
    model.unmerge_adapter()
    unmerged = logits(model)
    unloaded = model.merge_and_unload()
    assert not list(secura_layers(unloaded))
    assert (before - logits(base())).abs().max() > 1e-2
    assert torch.equal(unmerged, before)
    assert_close(merged, before, rtol=1e-4, atol=1e-4)
    assert_close(logits(unloaded), before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("base", [two_linears, one_conv1d])
def test_merge_and_unload_gives_the_plain_layer_back(base: Any) -> None:
    model = adapted(base(), small_config())
    layer = first_layer(model)
    weight, before = layer.effective_weight("default"), outputs(model)
    unloaded = model.merge_and_unload()
    assert type(unloaded.first) is type(base().first)
    stored = unloaded.first.weight.T if isinstance(unloaded.first, Conv1D) else unloaded.first.weight
    assert_close(stored, weight, rtol=0, atol=0)
    assert unloaded.first.weight.is_contiguous()
    assert_close(outputs(unloaded), before, rtol=1e-5, atol=1e-5)


def test_unload_gives_the_base_back_to_the_bit() -> None:
    unloaded = adapted(two_linears(), small_config()).unload()
    assert torch.equal(outputs(unloaded), outputs(two_linears()))
    assert isinstance(unloaded.first, nn.Linear)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_16_bit_merge_rounds_the_effective_weight_once(dtype: torch.dtype) -> None:
    model = adapted(two_linears(dtype=dtype), small_config())
    layer = first_layer(model)
    weight, original = layer.effective_weight("default"), layer.base_layer.weight.clone()
    assert weight.dtype == torch.float32
    model.merge_adapter()
    assert torch.equal(layer.base_layer.weight, weight.to(dtype))
    assert layer.base_layer.weight.dtype == dtype
    model.unmerge_adapter()
    assert torch.equal(layer.base_layer.weight, original)


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.bfloat16, 256), (torch.float16, 2048)])
def test_a_16_bit_merge_moves_no_weight_beyond_its_bound_by_more_than_one_rounding(
    dtype: torch.dtype, rounding: int
) -> None:
    model = adapted(two_linears(dtype=dtype), small_config(norm="bounded"))
    with torch.no_grad():
        for layer in secura_layers(model):
            layer._change("default").starting_factors()[1].mul_(1e4)  # every weight at its bound
    before = [weight.float() for weight in base_weights(model)]
    model.merge_adapter()
    norm = first_layer(model).secura_settings["default"].weight_norm
    for weight, merged in zip(before, base_weights(model), strict=True):
        beyond = (merged.float() - weight).abs() - norm.bound(weight)
        assert (beyond <= merged.float().abs() / rounding + 2**-25).all()
        assert (beyond > 0).any()  # so the rounding has to be allowed for


def test_an_output_bias_merges_into_the_layers_own_and_comes_out_again() -> None:
    model = adapted(two_linears(), small_config(target_modules=["first"], output_bias=True))
    layer, before = first_layer(model), outputs(model)
    bias = layer.base_layer.bias.clone()
    model.merge_adapter()
    assert_close(outputs(model), before, rtol=1e-5, atol=1e-5)
    assert_close(layer.base_layer.bias, bias + layer.secura_change["default"].bias)
    model.unmerge_adapter()
    assert torch.equal(layer.base_layer.bias, bias)


def test_an_output_bias_without_a_place_in_the_base_refuses_and_changes_nothing() -> None:
    model = adapted(two_linears(), small_config(target_modules=["second"], output_bias=True))
    before = outputs(model)
    with pytest.raises(MergeError, match="the base layer has none to merge it into; train with output_bias=False"):
        model.merge_adapter()
    assert not first_layer(model).merged
    assert torch.equal(outputs(model), before)


@pytest.mark.parametrize("merge", ["merge_adapter", "merge_and_unload"])
def test_released_refuses_to_merge_with_the_reason(merge: str) -> None:
    model = adapted(two_linears(), small_config(norm="released"))
    before = outputs(model)
    with pytest.raises(MergeError, match=r"'default' has norm='released', which depends on each input's activations"):
        getattr(model, merge)()
    assert torch.equal(outputs(model), before)


def test_one_adapter_that_cannot_merge_stops_the_whole_merge() -> None:
    model = adapted(two_linears(), small_config())
    model.add_adapter("other", small_config(norm="released"))
    weights = base_weights(model)
    with pytest.raises(MergeError, match="'other'"):
        model.merge_adapter(["default", "other"])
    assert all(torch.equal(one, other) for one, other in zip(base_weights(model), weights, strict=True))
    assert not any(layer.merged for layer in secura_layers(model))


# ------------------------------------------------------------------ safe merge


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("change", ["cabr", "cur", "low_rank"])
def test_a_safe_merge_refuses_nan_with_pefts_own_words_and_keeps_the_base(change: str, value: float) -> None:
    model = adapted(two_linears(), small_config(change=change, norm="none"))
    with torch.no_grad():
        first_layer(model).secura_change["default"].starting_factors()[1][0] = value
    weights = base_weights(model)
    with pytest.raises(
        ValueError, match=r"^NaNs detected in the merged weights. The adapter default seems to be broken$"
    ):
        model.merge_and_unload(safe_merge=True)
    assert all(torch.equal(one, other) for one, other in zip(base_weights(model), weights, strict=True))


@pytest.mark.parametrize("norm", ["none", "paper", "bounded", "row_bounded"])
def test_nan_in_any_trained_factor_reaches_the_merged_weight(norm: str) -> None:
    for name in ("inner", "outer"):
        model = adapted(two_linears(), small_config(norm=norm))
        with torch.no_grad():
            getattr(first_layer(model).secura_change["default"], name)[0] = float("nan")
        with pytest.raises(ValueError, match="NaNs detected"):
            model.merge_adapter(safe_merge=True)


def test_a_safe_merge_gives_the_weights_of_a_plain_one() -> None:
    plain, safe = two_adapters(), two_adapters()
    plain.merge_adapter(["default", "other"])
    safe.merge_adapter(["default", "other"], safe_merge=True)
    for one, other in zip(base_weights(plain), base_weights(safe), strict=True):
        assert torch.equal(one, other)


# ------------------------------------------------------------------ several adapters


def test_merging_one_after_the_other_equals_merging_both_in_either_order() -> None:
    together, in_turn, reversed_turn = two_adapters(), two_adapters(), two_adapters()
    together.base_model.set_adapter(["default", "other"])
    both_active = outputs(together)
    originals = base_weights(together)
    together.merge_adapter(["default", "other"])
    for model, order in ((in_turn, ["default", "other"]), (reversed_turn, ["other", "default"])):
        for name in order:
            model.merge_adapter([name])
        for one, other in zip(base_weights(model), base_weights(together), strict=True):
            assert_close(one, other)
    assert_close(outputs(together), both_active, rtol=1e-5, atol=1e-5)
    for model in (together, in_turn, reversed_turn):
        model.unmerge_adapter()
        for one, other in zip(base_weights(model), originals, strict=True):
            assert torch.equal(one, other)


def test_merging_twice_warns_and_changes_nothing() -> None:
    model = adapted(two_linears(), small_config())
    model.merge_adapter()
    weights = base_weights(model)
    with pytest.warns(UserWarning, match="All adapters are already merged"):
        model.merge_adapter()
    for one, other in zip(base_weights(model), weights, strict=True):
        assert torch.equal(one, other)


def test_unmerging_what_is_not_merged_warns() -> None:
    model = adapted(two_linears(), small_config())
    with pytest.warns(UserWarning, match="Already unmerged"):
        model.unmerge_adapter()


def test_disabling_a_merged_adapter_gives_the_base_to_the_bit() -> None:
    model = adapted(two_linears(), small_config())
    model.merge_adapter()
    with model.disable_adapter():
        assert torch.equal(outputs(model), outputs(two_linears()))


def test_merging_in_training_ignores_dropout_and_is_deterministic() -> None:
    model = adapted(two_linears(), small_config(dropout=0.5))
    expected = [layer.effective_weight("default") for layer in secura_layers(model)]
    model.train()
    model.merge_adapter()
    for weight, merged in zip(expected, base_weights(model), strict=True):
        assert torch.equal(merged, weight)


# ------------------------------------------------------------------ as a matrix, and as a LoRA


@pytest.mark.parametrize("base", BASES)
@crossed(WEIGHT_SPACE)
def test_the_delta_weight_is_the_additive_residual_in_the_layout_of_the_base(base: str, choice: dict[str, str]) -> None:
    model = adapted(BASES[base](), small_config(**choice))
    layer = first_layer(model)
    stored = layer.base_layer.weight.detach()
    delta = layer.get_delta_weight("default")
    assert delta.shape == stored.shape
    model.merge_adapter()
    assert_close(layer.base_layer.weight.detach(), stored + delta)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(("norm", "rank"), [("none", 4), ("bounded", 17)])
@pytest.mark.parametrize("change", ["cabr", "cur", "low_rank"])
def test_conversion_to_lora_reproduces_the_adapter(base: str, norm: str, rank: int, change: str) -> None:
    model = adapted(BASES[base](), small_config(change=change, norm=norm))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT has words for a config that is not of a language model
        config, weights = convert_to_lora(model, rank=rank)
        lora = get_peft_model(BASES[base](), config)  # type: ignore[arg-type]
    set_peft_model_state_dict(lora, weights)
    assert_close(outputs(lora.eval()), outputs(model), rtol=1e-4, atol=1e-4)


def test_folds_are_part_of_the_conversion() -> None:
    model = adapted(two_linears(), small_config(norm="none"))
    fold(model, "one")
    moved(model, seed=5)
    config, weights = convert_to_lora(model, rank=4)
    lora = get_peft_model(two_linears(), config)  # type: ignore[arg-type]
    set_peft_model_state_dict(lora, weights)
    assert_close(outputs(lora.eval()), outputs(model), rtol=1e-4, atol=1e-4)


def test_released_is_refused_by_the_conversion() -> None:
    model = adapted(two_linears(), small_config(norm="released"))
    with pytest.raises(TypeError, match="do not support LoRA conversion"):
        convert_to_lora(model, rank=4)


def test_merged_weights_hold_for_inputs_of_any_size() -> None:
    model = adapted(two_linears(), small_config())
    before = outputs(model, inputs(2, 3, 33))
    model.merge_adapter()
    assert_close(outputs(model, inputs(2, 3, 33)), before, rtol=1e-5, atol=1e-5)
