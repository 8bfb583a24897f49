import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted_models import adapted, gpt2, llama, llama_config, logits, tokens
from peft import (
    AdaLoraConfig,
    BOFTConfig,
    IA3Config,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    OFTConfig,
    OSFConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    VeraConfig,
    get_peft_model,
)
from references import formulas
from torch import Tensor, nn
from torch.testing import assert_close

from secura.adapters.dial import (
    draw_back_,
    layers_without_closed_form,
    merged_state,
    scale_,
    scaled,
    values_to_be_trained,
)
from secura.adapters.secura.layer_settings import LayerSettings
from secura.errors import ConfigError, MergeError
from secura.evaluation.merged import merged_for_scoring

TARGETS = ["q_proj", "down_proj"]
LORA: dict[str, Any] = {"r": 3, "target_modules": TARGETS, "task_type": "CAUSAL_LM"}


def secura(change: str, norm: str, **more: Any) -> Callable[[], PeftConfig]:
    return lambda: llama_config(change=change, norm=norm, target_modules=TARGETS, **more)


CLOSED: dict[str, Callable[[], PeftConfig]] = {
    "lora": lambda: LoraConfig(**LORA),
    "lora with a trained bias": lambda: LoraConfig(**LORA, lora_bias=True),
    "rslora": lambda: LoraConfig(**LORA, use_rslora=True),
    "dora": lambda: LoraConfig(**LORA, use_dora=True),
    "mica": lambda: LoraConfig(**LORA, init_lora_weights="mica"),
    "lora and a whole head": lambda: LoraConfig(**LORA, modules_to_save=["lm_head"]),
    "lora and three tokens": lambda: LoraConfig(**LORA, trainable_token_indices=[3, 5, 9]),
    "adalora": lambda: AdaLoraConfig(init_r=3, target_modules=TARGETS, total_step=10, task_type="CAUSAL_LM"),
    "loha": lambda: LoHaConfig(r=3, target_modules=TARGETS, task_type="CAUSAL_LM"),
    "lokr": lambda: LoKrConfig(r=3, target_modules=TARGETS, task_type="CAUSAL_LM"),
    "vera": lambda: VeraConfig(r=3, target_modules=TARGETS, task_type="CAUSAL_LM"),
    "ia3": lambda: IA3Config(target_modules=TARGETS, feedforward_modules=["down_proj"], task_type="CAUSAL_LM"),
}
BY_WEIGHTS: dict[str, Callable[[], PeftConfig]] = {
    "oft": lambda: OFTConfig(oft_block_size=4, target_modules=TARGETS, task_type="CAUSAL_LM"),
    "boft": lambda: BOFTConfig(boft_block_size=4, target_modules=TARGETS, task_type="CAUSAL_LM"),
    "osf": lambda: OSFConfig(effective_rank=4, target_modules=TARGETS, task_type="CAUSAL_LM"),
}
LINEAR = CLOSED | BY_WEIGHTS
OURS: dict[str, Callable[[], PeftConfig]] = {
    f"{change} {norm}": secura(change, norm)
    for change in ("cabr", "cur", "low_rank")
    for norm in ("none", "bounded", "row_bounded")
}


def trained(config: PeftConfig, base: nn.Module | None = None) -> PeftModel:
    """Everything that the adapter trains, moved at random."""
    model = adapted(llama() if base is None else base, config, seed=None)  # type: ignore[arg-type]
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    return model


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def written_out(model: PeftModel) -> dict[str, Tensor]:
    """Every weight of the tuned model, by merging a copy of it."""
    return state(copy.deepcopy(model).merge_and_unload())  # type: ignore[operator]


def with_weights(values: dict[str, Tensor]) -> nn.Module:
    model = llama()
    if not torch.equal(values["lm_head.weight"], values["model.embed_tokens.weight"]):
        model.config.tie_word_embeddings = False
    model.load_state_dict(values)
    return model


@pytest.mark.parametrize("name", [name for name in LINEAR if name != "lora with a trained bias"])
def test_half_of_a_change_equals_the_weights_halfway_written_out(name: str) -> None:
    model, base = trained(LINEAR[name]()), state(llama())
    tuned = written_out(model)
    halfway = with_weights({key: base[key] + 0.5 * (tuned[key] - base[key]) for key in base})
    with scaled(model, 0.5) as merged:
        assert merged is (name in BY_WEIGHTS)
        assert_close(logits(model), logits(halfway), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits(model), logits(halfway), atol=1e-3), "the adapter does nothing"


@pytest.mark.parametrize("name", LINEAR | OURS)
def test_the_ends_are_the_base_and_what_was_trained_and_all_comes_back_to_the_bit(name: str) -> None:
    model = trained((LINEAR | OURS)[name]())
    before, tuned = state(model), logits(model)
    with scaled(model, 0.0):
        assert_close(logits(model), logits(llama()), rtol=1e-5, atol=1e-5)
    with scaled(model, 1.0) as merged:
        assert_close(logits(model), tuned, rtol=1e-4 if merged else 0, atol=1e-4 if merged else 0)
    with pytest.raises(RuntimeError, match="stop"), scaled(model, 0.3):
        raise RuntimeError("stop")
    assert torch.equal(logits(model), tuned)
    after = state(model)
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("name", OURS)
def test_our_own_change_is_scaled_inside_its_norm(name: str) -> None:
    model = trained(OURS[name]())
    layer = model.base_model.model.model.layers[0].self_attn.q_proj  # type: ignore[union-attr]
    weight = layer._pretrained_weight()
    factors = layer._thin_factors("default")
    change = factors.left @ factors.right
    settings = layer.secura_settings["default"]
    expected = weight + 0.5 * change
    if settings.weight_norm is not None:
        expected = settings.weight_norm.constrain(weight, 0.5 * change)
    elif settings.row_bound is not None:
        moved = formulas.row_bounded(weight.tolist(), (0.5 * change).tolist(), settings.row_bound.tau)
        expected = torch.tensor(moved)
    with scaled(model, 0.5):
        found = layer.effective_weight("default")
    assert_close(found, expected)


def test_folds_and_a_moved_reference_are_scaled_with_the_change() -> None:
    model = trained(secura("cabr", "bounded", reference="moving", fold="keep")())
    for layer in (module for module in model.modules() if hasattr(module, "fold_")):
        layer.fold_("default", "first")  # type: ignore[operator]
    tuned = logits(model)
    with scaled(model, 0.0):
        assert_close(logits(model), logits(llama()), rtol=1e-5, atol=1e-5)
    with scaled(model, 0.5):
        assert not torch.allclose(logits(model), tuned, atol=1e-3)
    assert torch.equal(logits(model), tuned)


def test_layers_by_name_are_scaled_by_their_own_number_and_the_rest_is_left() -> None:
    model, base = trained(LINEAR["lora"]()), state(llama())
    tuned, name = written_out(model), "model.layers.1.mlp.down_proj"
    expected = {key: base[key] if key == f"{name}.weight" else tuned[key] for key in base}
    with scaled(model, {name: 0.0}):
        assert_close(logits(model), logits(with_weights(expected)), rtol=1e-4, atol=1e-4)
    with (
        pytest.raises(ConfigError, match=r"layers\.1\.mlp\.up_proj has learned nothing .* nearest"),
        scaled(model, {"model.layers.1.mlp.up_proj": 0.5}),
    ):
        pass


def test_another_adapter_is_left_alone() -> None:
    model = trained(LINEAR["lora"]())
    model.add_adapter("other", LoraConfig(**LORA))
    before = {key: value for key, value in state(model).items() if ".other." in key}
    with scaled(model, 0.5, adapter_name="default"):
        assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())


def test_biases_of_the_base_that_were_trained_are_drawn_back_to_its_own() -> None:
    base = gpt2()
    own, untrained = values_to_be_trained(base), logits(base)
    config = LoraConfig(r=3, target_modules=["c_attn"], bias="all", fan_in_fan_out=True, task_type="CAUSAL_LM")
    model = trained(config, base)
    with pytest.raises(ConfigError, match="overwritten the base's own biases"), scaled(model, 0.5):
        pass
    with scaled(model, 0.0, base_values=own):
        assert_close(logits(model), untrained, rtol=1e-5, atol=1e-5)
    parameter = dict(model.get_base_model().named_parameters())["transformer.h.0.attn.c_proj.bias"]
    tuned = parameter.clone()
    with scaled(model, 0.5, base_values=own):
        assert_close(parameter, (own["transformer.h.0.attn.c_proj.bias"] + tuned) / 2)
    assert torch.equal(parameter, tuned)


@pytest.mark.parametrize("name", ["lora", "dora", "lora and a whole head", "lora and three tokens", *BY_WEIGHTS, *OURS])
def test_the_merged_point_is_a_whole_model_that_needs_no_adapter(name: str) -> None:
    model = trained((LINEAR | OURS)[name]())
    before, tuned = state(model), logits(model)
    with scaled(model, 0.5):
        expected = logits(model)
    with scaled(model, 0.5, merged=True) as merged:
        assert merged
        whole = {key: value.clone() for key, value in merged_state(model).items()}
    assert set(whole) == set(llama().state_dict())
    assert_close(logits(with_weights(whole)), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(logits(model), tuned)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", [*CLOSED, *OURS])
def test_a_scaled_adapter_of_a_closed_form_loads_again_as_it_was_scored(name: str, tmp_path: Path) -> None:
    if name in OURS and "alpha_over_r" not in LayerSettings.__dataclass_fields__:
        pytest.skip("the scale of our own layers is not stored yet")
    model = trained((CLOSED | OURS)[name]())
    assert layers_without_closed_form(model) == []
    with scaled(model, 0.5):
        expected = logits(model)
        model.save_pretrained(str(tmp_path))
    loaded = PeftModel.from_pretrained(llama(), str(tmp_path)).eval()
    assert_close(logits(loaded), expected, rtol=1e-5, atol=1e-5)


def test_methods_without_a_closed_form_name_their_layers() -> None:
    assert len(layers_without_closed_form(trained(LINEAR["oft"]()))) == 4


def test_a_scaled_adapter_can_be_merged_for_scoring() -> None:
    model = trained(LINEAR["dora"]())
    with scaled(model, 0.5):
        expected = logits(model)
        with merged_for_scoring(model) as merged:
            assert merged
            assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)


def test_a_whole_model_is_drawn_back_to_its_base() -> None:
    base, tuned = llama(), llama(seed=4)
    values, other = state(base), state(tuned)
    for scale in (0.0, 0.25, 1.0):
        model = llama(seed=4)
        draw_back_(model, values, scale)
        expected = with_weights({key: values[key] + scale * (other[key] - values[key]) for key in values})
        assert_close(logits(model), logits(expected), rtol=1e-5, atol=1e-5)
    model = llama(seed=4)
    draw_back_(model, values, {"model.norm": 0.0, "lm_head": 0.0})
    assert torch.equal(model.lm_head.weight, values["lm_head.weight"])
    assert torch.equal(model.model.layers[0].self_attn.q_proj.weight, other["model.layers.0.self_attn.q_proj.weight"])


def test_a_whole_model_of_another_shape_is_refused() -> None:
    with pytest.raises(ConfigError, match="is 64x40 in the tuned model and 64x32 in the base"):
        draw_back_(llama(width=40), llama().state_dict(), 0.5)


@pytest.mark.parametrize("scale", [-0.1, float("nan"), float("inf")])
def test_a_dial_that_is_no_number_from_0_is_refused(scale: float) -> None:
    with (
        pytest.raises(ConfigError, match=r"the dial is .*; it is a number from 0"),
        scaled(trained(LINEAR["lora"]()), scale),
    ):
        pass


def test_what_cannot_be_scaled_is_refused_by_name() -> None:
    base = llama()
    prefix = get_peft_model(base, PrefixTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"))
    with pytest.raises(ConfigError, match="changes what a model reads"), scaled(prefix, 0.5):  # type: ignore[arg-type]
        pass
    pissa = adapted(llama(), LoraConfig(**LORA, init_lora_weights="pissa"), seed=None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="started by pissa"), scaled(pissa, 0.5):
        pass
    merged = trained(LINEAR["lora"]())
    merged.merge_adapter()  # type: ignore[operator]
    with pytest.raises(MergeError, match="is merged"), scaled(merged, 0.5):
        pass
    with pytest.raises(ConfigError, match="no adapter 'x'"), scaled(trained(LINEAR["lora"]()), 0.5, adapter_name="x"):
        pass


def test_tokens_make_a_difference_to_these_models() -> None:
    assert not torch.equal(logits(llama()), logits(llama(), tokens(seed=2)))


@pytest.mark.parametrize("kind", CLOSED | OURS)
def test_scaled_for_good_it_is_the_point_that_was_scored(kind: str) -> None:
    build = (CLOSED | OURS)[kind]
    reference = trained(build())
    with scaled(reference, 0.4):
        expected = logits(reference)
    model = trained(build())
    assert scale_(model, 0.4) == {}
    assert torch.equal(logits(model), expected)
    assert not torch.equal(expected, logits(reference))


def test_scaled_for_good_layers_without_a_value_of_their_own_are_left_to_whoever_writes_them() -> None:
    model = trained(BY_WEIGHTS["oft"]())
    before = logits(model)
    left = scale_(model, 0.4)
    assert set(left) == {name for name, _ in model.get_base_model().named_modules() if name.endswith(tuple(TARGETS))}
    assert set(left.values()) == {0.4}
    assert torch.equal(logits(model), before)


def test_what_cannot_be_scaled_is_left_as_it_was() -> None:
    model = trained(CLOSED["lora"]())
    before = logits(model)
    with pytest.raises(ConfigError, match=r"the dial is -1"):
        scale_(model, -1.0)
    assert torch.equal(logits(model), before)
