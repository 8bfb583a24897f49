"""Points PEFT's own test suite at SECURA; a pytest plugin, loaded with `-p suite_plugin`.

The suite runs its tests over lists of methods, which it hands to `pytest.mark.parametrize`.
Here SECURA takes the place of those lists, so the tests themselves stay as PEFT wrote them.
A test that SECURA has no place in, since it names another method, is not run.
"""

import importlib.util
import json
import sys
import types
from collections.abc import Iterator
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
import torch
from _pytest.mark import ParameterSet
from peft import PeftConfig

from secura import SecuraConfig

CUSTOM_CASES = [
    ("MLP, expression", "MLP", {"target_modules": "lin0"}),
    ("MLP, first layer", "MLP", {"target_modules": ["lin0"]}),
    ("MLP, last layer", "MLP", {"target_modules": ["lin1"]}),
    ("MLP, both layers", "MLP", {"target_modules": ["lin0", "lin1"]}),
    ("MLP, other layer saved", "MLP", {"target_modules": ["lin0"], "modules_to_save": ["lin1"]}),
    ("MLP, rank, alpha and dropout", "MLP", {"target_modules": ["lin0"], "r": 3, "alpha": 6.0, "dropout": 0.1}),
    ("MLP, all-linear", "MLP", {"target_modules": "all-linear"}),
    ("transformers Conv1D", "EmbConv1D", {"target_modules": ["conv1d"]}),
]
"""Name, model and adapter settings; the models are those of the suite's test_custom_models.py."""

PAIR_CASES = [
    ("Same", {"target_modules": ["lin0"]}, {"target_modules": ["lin0"]}),
    ("Different", {"target_modules": ["lin0"]}, {"target_modules": ["lin1"]}),
    ("Overlapping", {"target_modules": ["lin0", "lin1"]}, {"target_modules": ["lin1"], "r": 1}),
]
"""Name and settings of two adapters that are active together, on the suite's model MLP."""

_NOT_ADAPTED = "adapts an embedding, a convolution or an attention module, where SECURA adapts linear layers"
_NEEDS_LARGE_START = (
    "wants hidden states moved by 0.5 at the start, as LoKr's are; the decoder models test conversion too"
)
_NAMES_PARAMETERS = "looks for the parameters of one method by their names"

LEFT_OUT: dict[str, str] = {
    "test_mixed_adapter_batches_lora_conv1d_emb": _NOT_ADAPTED,
    "test_mixed_adapter_batches_lora_conv1d_emb_multiple_modules_to_save": _NOT_ADAPTED,
    "test_mixed_adapter_batches_lora_conv2d": _NOT_ADAPTED,
    "test_mixed_adapter_batches_mha_raises": _NOT_ADAPTED,
    "test_model_with_unsupported_layers_raises": _NOT_ADAPTED,
    "test_converted_lora_approximates_original_adapter": _NEEDS_LARGE_START,
    "test_converted_lora_with_multiple_adapters": _NEEDS_LARGE_START,
    "test_targeted_modules_identical": _NAMES_PARAMETERS,
    "test_targeted_modules_identical_target_modules_str": _NAMES_PARAMETERS,
    "test_base_model_module_named_like_peft_prefix": _NAMES_PARAMETERS,
    "test_trained_modules_to_save_module_named_like_peft_prefix_round_trip": _NAMES_PARAMETERS,
    "test_get_and_set_peft_model_state_dict_bias_in_module_name": "is about LoRA's argument `bias`",
    "test_with_torch_compile": "compares singular vectors to 1e-5, where only their products agree so well",
    "test_inject_adapter_in_model_rejects_shared_state_tuners": "is about methods whose layers share their factors",
    "test_prompt_learning_with_gradient_checkpointing": "is about prompt learning",
}
"""Why a test is left out, by its name: each is about something that comparable methods lack too, or that its
example method alone has."""

STAND_INS = {
    "TestLoraConversion": "LoKrConfig",
    "TestPeftStateDict": "LoraConfig",
    "TestGetBaseModelStateDict": "LoraConfig",
}
"""By class of tests, the config that serves there as the example of any method, and is SECURA's here."""

ALSO_RUN = {"test_from_peft_type"}
"""Tests that name no method, and yet say something about SECURA."""

OTHER_BASE = {
    "test_loading_model_requires_grad_set_correctly",
    "test_loading_model_with_modules_to_save_requires_grad_set_correctly",
    "test_set_peft_model_state_dict_preserves_input",
}
"""Tests that load an adapter into another random model, which SECURA refuses unless told to."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--secura-settings", default="{}", help="fields of SecuraConfig for every case, as JSON")


def pytest_configure() -> None:
    # The suite imports one name of diffusers, for tests of image models that are not run here,
    # and a config of another method asks whether scikit-learn is there.
    for name in ("diffusers", "sklearn"):
        if importlib.util.find_spec(name) is None:
            stand_in: Any = types.ModuleType(name)
            stand_in.__spec__ = ModuleSpec(name, loader=None)
            stand_in.StableDiffusionPipeline = type("StableDiffusionPipeline", (), {})
            sys.modules[name] = stand_in


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    settings = _settings(metafunc.definition)
    marks = metafunc.definition.own_markers
    marks[:] = [_pointed(mark, settings) if mark.name == "parametrize" else mark for mark in marks]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    run = [item for item in items if _is_run(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in run])
    items[:] = run


@pytest.fixture(autouse=True)
def _example_method(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put SECURA where a test names another method as an example, and adapt Conv1D layers too."""
    torch.manual_seed(0)  # some tests draw without a seed and compare to the last digits
    for module in (request.module, sys.modules.get("tests.testing_common")):
        # The suite skips layers of Conv1D for every method but a few that it lists.
        for name in ("_skip_if_conv1d_not_supported", "_skip_if_not_conv1d_supported"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, lambda *args: None)
    stand_in = STAND_INS.get(getattr(request.cls, "__name__", ""))
    if stand_in is not None:
        monkeypatch.setattr(request.module, stand_in, partial(_from_lora_arguments, _settings(request.node)))


def _settings(test: pytest.Function) -> dict[str, Any]:
    settings = json.loads(str(test.config.getoption("--secura-settings")))
    return {**settings, "verify_base": False} if test.originalname in OTHER_BASE else settings


def _from_lora_arguments(settings: dict[str, Any], **arguments: Any) -> SecuraConfig:
    named_otherwise = {"lora_alpha": "alpha", "init_lora_weights": "init_weights"}
    return SecuraConfig(**{named_otherwise.get(name, name): value for name, value in arguments.items()}, **settings)


def _is_run(item: pytest.Item) -> bool:
    assert isinstance(item, pytest.Function)
    if item.originalname in LEFT_OUT:
        return False
    if item.originalname in ALSO_RUN or (item.cls is not None and item.cls.__name__ in STAND_INS):
        return True
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return any(_is_secura(value) for value in parameters)


def _is_secura(value: Any) -> bool:
    return isinstance(value, SecuraConfig) or getattr(value, "func", value) is SecuraConfig


def _pointed(mark: pytest.Mark, settings: dict[str, Any]) -> pytest.Mark:
    names, values = mark.args[0], list(mark.args[1])
    names = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    if names == ["model_id"]:
        return pytest.mark.parametrize("model_id", [value for value in values if Path(value).is_dir()]).mark
    if not any(name.startswith("config") for name in names):
        return mark
    return pytest.mark.parametrize(names, list(_rows(names, values, settings))).mark


def _rows(names: list[str], values: list[Any], settings: dict[str, Any]) -> Iterator[Any]:
    if names == ["test_name", "model_id", "config_cls", "config_kwargs"]:
        for name, model, own in CUSTOM_CASES:
            scaled = {}
            if model == "EmbConv1D":
                # Five weights near 0.02, and gradients of third order in them where C and R take part: unscaled, the
                # suite's few steps move nothing. It gives HiRA 200 times the learning rate for a like reason.
                is_low_rank = settings.get("change") == "low_rank"
                scaled = {"scale": "plain"} if is_low_rank else {"scale": "plain", "alpha": 10_000.0}
            yield name, model, SecuraConfig, {**own, **scaled, **settings}
    elif "tuner_method" in names:
        for name, *pair in PAIR_CASES:
            yield name, "secura", SecuraConfig, *({**own, "init_weights": False, **settings} for own in pair)
    else:
        # Any row would do, and the first is often LoRA.
        first = values[0].values if isinstance(values[0], ParameterSet) else values[0]
        if len(names) == 1:
            if names == ["config_cls"]:  # nothing beside it carries the settings
                yield (partial(SecuraConfig, **settings),)
            else:
                yield (_as_secura(first, settings),)
            return
        yield tuple(_as_secura(value, settings) for value in first)


def _as_secura(value: Any, settings: dict[str, Any]) -> Any:
    """What stands for a config, its class or its settings when the method is SECURA."""
    if isinstance(value, type) and issubclass(value, PeftConfig):
        return SecuraConfig
    if isinstance(value, dict):
        shared = {key: value[key] for key in ("task_type", "target_modules", "modules_to_save") if key in value}
        return {**shared, **settings}
    if isinstance(value, PeftConfig):
        shared = {key: getattr(value, key) for key in ("task_type", "target_modules", "modules_to_save")}
        starts_as_identity = getattr(value, "init_lora_weights", True) and getattr(value, "init_weights", True)
        return SecuraConfig(**shared, init_weights=bool(starts_as_identity), **settings)
    return value
