import copy
import inspect
import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted_models import adapted, first_layer, inputs, outputs, small_config, two_linears
from peft import PeftConfig, get_peft_model
from torch import nn
from torch.testing import assert_close

from secura import ConfigError, SecuraConfig
from secura.adapters.secura.config import PRESETS

NOT_DEFAULT: dict[str, Any] = {
    "change": "cur",
    "norm": "paper",
    "reference": "moving",
    "fold": "undamped",
    "r": 3,
    "selection": "sample",
    "selection_seed": 5,
    "tau": 0.25,
    "floor": 0.1,
    "alpha": 6.0,
    "output_bias": True,
    "dropout": 0.1,
    "target_modules": ["q_proj"],
    "exclude_modules": ["lm_head"],
    "layers_to_transform": [0, 1],
    "layers_pattern": "layers",
    "modules_to_save": ["lm_head"],
    "rank_pattern": {"q_proj": 2},
    "alpha_pattern": {"q_proj": 4.0},
    "init_weights": False,
    "verify_base": False,
}


def test_a_config_needs_no_arguments() -> None:
    config = SecuraConfig()
    assert (config.change, config.norm, config.reference, config.fold) == ("cabr", "bounded", "moving", "keep")
    assert SecuraConfig(norm="released").reference == "fixed"
    assert config.peft_type == "SECURA"
    assert config.init_weights


def test_every_field_explains_itself() -> None:
    base = {one.name for one in PeftConfig.__dataclass_fields__.values()}
    for name, one in SecuraConfig.__dataclass_fields__.items():
        assert name in base or one.metadata["help"].endswith(".") or "0..1" in one.metadata["help"], name


def test_json_holds_every_field(tmp_path: Path) -> None:
    SecuraConfig(**NOT_DEFAULT).save_pretrained(str(tmp_path))
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    assert written["peft_type"].startswith("SECURA: ")
    for name, value in NOT_DEFAULT.items():
        assert written[name] == value, name


@pytest.mark.parametrize("settings", [{}, NOT_DEFAULT], ids=["defaults", "all-set"])
@pytest.mark.parametrize("loader", [SecuraConfig, PeftConfig])
def test_saving_and_loading_gives_the_config_back(tmp_path: Path, settings: dict[str, Any], loader: Any) -> None:
    config = SecuraConfig(**settings)
    config.save_pretrained(str(tmp_path))
    loaded = loader.from_pretrained(str(tmp_path))
    assert isinstance(loaded, SecuraConfig)
    assert loaded.to_dict() == config.to_dict()
    assert loaded.target_modules == config.target_modules
    assert isinstance(loaded.exclude_modules, type(config.exclude_modules))


def test_an_unknown_key_of_a_newer_version_is_dropped_with_a_warning(tmp_path: Path) -> None:
    SecuraConfig().save_pretrained(str(tmp_path))
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "from_the_future": 1}))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded = PeftConfig.from_pretrained(str(tmp_path))
    assert loaded.to_dict() == SecuraConfig().to_dict()
    assert any("from_the_future" in str(one.message) for one in caught)


def test_lists_of_modules_become_sets() -> None:
    config = SecuraConfig(target_modules=["a", "b", "a"], exclude_modules=["c"])
    assert config.target_modules == {"a", "b"}
    assert config.exclude_modules == {"c"}


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_config_copies_and_pickles(duplicate: Any) -> None:
    config = SecuraConfig(**NOT_DEFAULT)
    assert duplicate(config).to_dict() == config.to_dict()
    assert duplicate(config).peft_type is config.peft_type


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
@pytest.mark.parametrize("change", ["cabr", "cur", "low_rank"])
def test_an_adapted_model_copies_and_pickles(duplicate: Any, change: str) -> None:
    model = adapted(two_linears(), small_config(change=change))
    twin = duplicate(model)
    assert torch.equal(outputs(twin), outputs(model))
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert outputs(model).abs().max() > 0  # the twin shares no storage


# ------------------------------------------------------------------ presets


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_sets_what_it_says_and_takes_overrides(name: str) -> None:
    config = SecuraConfig.preset(name, dropout=0.25, r=12)
    for field, value in {**PRESETS[name], "dropout": 0.25, "r": 12}.items():
        assert getattr(config, field) == value


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_runs(name: str) -> None:
    model = get_peft_model(two_linears(), SecuraConfig.preset(name, target_modules=["first", "second"]))  # type: ignore[arg-type]
    assert_close(outputs(model), outputs(two_linears()), rtol=0, atol=0)


def test_an_unknown_preset_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"unknown preset 'cabr-lore' \(did you mean 'cabr-lora'\?\); known: secura,"):
        SecuraConfig.preset("cabr-lore")


def test_an_unknown_field_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"unknown adapter setting 'droput' \(did you mean 'dropout'\?\)"):
        SecuraConfig.preset("secura", droput=0.1)


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"change": "cabs"}, r"change is 'cabs' \(did you mean 'cabr'\?\); known: cabr, cur, low_rank"),
        (
            {"norm": "bound"},
            r"norm is 'bound' \(did you mean 'bounded'\?\); known: none, paper, released, bounded",
        ),
        ({"reference": "moved"}, r"reference is 'moved' \(did you mean 'moving'\?\)"),
        ({"fold": "kept"}, r"fold is 'kept' \(did you mean 'keep'\?\)"),
        ({"selection": "most"}, r"selection is 'most'.*known: least, sample"),
        ({"start": "gauss"}, r"start is 'gauss' \(did you mean 'gaussian'\?\)"),
        ({"change": "cur", "start": "gaussian"}, r"start is 'gaussian', but change='cur' has no factor A"),
        (
            {"fold": "undamped", "reference": "fixed"},
            r"fold='undamped' adds to a reference that reference='fixed' never moves",
        ),
        ({"norm": "released", "reference": "moving"}, r"norm='released' acts on activations, so no fold"),
        ({"r": 0}, r"r is 0, but must be a whole number of at least 1"),
        ({"r": -3}, r"r is -3"),
        ({"r": 2.5}, r"r is 2\.5"),
        ({"r": True}, r"r is True"),
        ({"inner_r": 0}, r"inner_r is 0"),
        ({"r": 8, "inner_r": 7}, r"inner_r is 7, but must be at least r, which is 8"),
        ({"rank_pattern": {"q_proj": 0}}, r"rank_pattern\['q_proj'\] is 0"),
        ({"rank_pattern": {"q_proj": "4"}}, r"rank_pattern\['q_proj'\] is '4'"),
        ({"tau": 0.0}, r"tau is 0\.0, but must be above 0"),
        ({"tau": -1.0}, r"tau is -1\.0"),
        ({"tau": float("nan")}, r"tau is nan"),
        ({"floor": -0.1}, r"floor is -0\.1, but must be at least 0"),
        ({"output_bias": float("nan")}, r"output_bias is nan, but must be true or false"),
        ({"output_bias": 1}, r"output_bias is 1, but"),
        ({"dropout": 1.0}, r"dropout is 1\.0, but must be at least 0 and below 1"),
        ({"dropout": -0.1}, r"dropout is -0\.1"),
        ({"target_modules": ".*q_proj", "layers_to_transform": [0]}, r"layers_to_transform cannot be used when"),
        ({"target_modules": ".*q_proj", "layers_pattern": "h"}, r"layers_pattern cannot be used when"),
        ({"target_modules": ".*q_proj", "layers_to_transform": 0}, r"layers_to_transform cannot be used when"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_by_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refusal:
        SecuraConfig(**settings)
    assert "\n" not in str(refusal.value)
    assert isinstance(refusal.value, ValueError)


def test_layers_to_transform_goes_with_all_linear() -> None:
    assert SecuraConfig(target_modules="all-linear", layers_to_transform=[0]).layers_to_transform == [0]


# ------------------------------------------------------------------ ranks meet layers


def test_a_rank_larger_than_the_layer_names_the_layer_and_the_limit() -> None:
    with pytest.raises(ConfigError, match=r"r is 20, but layer first is 17 × 33, so r can be at most 17"):
        get_peft_model(two_linears(), SecuraConfig(r=20, target_modules=["first"]))  # type: ignore[arg-type]


def test_the_default_rank_shrinks_to_fit_the_layer() -> None:
    base = nn.Sequential(nn.Linear(10, 20))
    model = adapted(base, SecuraConfig(target_modules=["0"]))
    assert first_layer(model).secura_change["default"].inner.shape == (10, 40)
    assert outputs(model, inputs(3, 10)).shape == (3, 20)


def test_the_default_rank_is_32_with_an_inner_rank_of_128() -> None:
    base = nn.Sequential(nn.Linear(48, 64))
    model = adapted(base, SecuraConfig(target_modules=["0"]))
    assert first_layer(model).secura_change["default"].inner.shape == (32, 128)


def test_a_pattern_above_the_inner_rank_is_refused_with_the_layer() -> None:
    config = small_config(rank_pattern={"second": 10})
    with pytest.raises(ConfigError, match=r"inner_r is 6, but r is 10 for layer second"):
        get_peft_model(two_linears(), config)  # type: ignore[arg-type]


def test_the_preset_help_names_every_preset() -> None:
    documentation = inspect.getdoc(SecuraConfig.preset) or ""
    assert all(f"`{name}`" in documentation for name in PRESETS)


def test_an_adapter_made_on_the_meta_device_is_refused_once_the_weights_are_real() -> None:
    with torch.device("meta"):
        base = nn.Sequential(nn.Linear(8, 6))
    model = get_peft_model(base, SecuraConfig(target_modules=["0"]))  # type: ignore[arg-type]
    model.to_empty(device="cpu")
    with pytest.raises(ConfigError, match="made while the base model was on the meta device"):
        model(torch.ones(1, 8))
