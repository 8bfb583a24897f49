import pytest
from tiny_models import ARCHITECTURES, tiny_model

from secura.errors import ConfigError
from secura.experiments.methods.adapters import adapter_config, attach_adapter
from secura.experiments.methods.defaults import METHOD_DEFAULTS
from secura.experiments.settings.names import METHOD_NAMES

ADAPTERS = [name for name in METHOD_NAMES if name != "full"]
RANKED = [name for name in ADAPTERS if name != "osf"]


def test_every_method_has_a_learning_rate() -> None:
    assert set(METHOD_DEFAULTS) == set(METHOD_NAMES)
    assert all(0 < own.learning_rate < 1 for own in METHOD_DEFAULTS.values())


def test_only_the_paper_method_folds_of_its_own_accord() -> None:
    assert {name for name, own in METHOD_DEFAULTS.items() if own.fold_every is not None} == {"secura-paper"}


def test_a_method_that_finds_nothing_to_train_is_refused() -> None:
    with pytest.raises(ConfigError, match="method osf finds nothing to train in this model's Conv1D and Linear layers"):
        attach_adapter(tiny_model("gpt2"), "osf", {})


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
@pytest.mark.parametrize("method", ADAPTERS)
def test_every_method_attaches_to_every_architecture_and_trains_the_adapter_alone(
    method: str, architecture: str
) -> None:
    if (method, architecture) == ("osf", "gpt2"):
        pytest.skip("PEFT's OSF does not adapt Conv1D")
    texts = [[7, 8, 9, 10], [11, 12, 13]] if method == "corda" else []
    adapted = attach_adapter(tiny_model(architecture), method, {}, texts)
    trained = [name for name, weight in adapted.named_parameters() if weight.requires_grad]
    assert trained
    parts = ("lora_", "secura_", "osf_")
    assert all("base_layer" not in name and any(part in name for part in parts) for name in trained)


@pytest.mark.parametrize("method", RANKED)
def test_settings_reach_the_adapter(method: str) -> None:
    config = adapter_config(method, {"r": 4, "target_modules": ["q_proj"]})
    assert config.r == 4
    assert config.target_modules == {"q_proj"}


@pytest.mark.parametrize("method", RANKED)
@pytest.mark.parametrize("rank", [33, 0, -1, "four", 2.5, True])
def test_a_rank_that_no_layer_can_have_is_refused(method: str, rank: object) -> None:
    with pytest.raises(ConfigError, match=r"\br is"):
        attach_adapter(tiny_model(), method, {"r": rank})


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_an_unknown_setting_is_refused(method: str) -> None:
    with pytest.raises(ConfigError, match=r"method\.adapter"):
        attach_adapter(tiny_model(), method, {"no_such_setting": 1})


def test_full_trains_every_weight() -> None:
    model = attach_adapter(tiny_model(), "full", {})
    assert all(weight.requires_grad for weight in model.parameters())
