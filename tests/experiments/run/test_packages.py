import huggingface_hub
import pytest

from secura.errors import ConfigError
from secura.experiments.models.loading import check_loading
from secura.experiments.run.packages import OPTIMIZERS, check_packages
from secura.experiments.settings.layers import load_config
from secura.experiments.settings.run import ModelConfig


def _nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("secura.experiments.run.packages", "secura.experiments.models.loading"):
        monkeypatch.setattr(f"{module}.find_spec", lambda name: None)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("training.optimizer=paged_adamw_8bit", r"needs bitsandbytes.*run pip install 'secura\[quantized\]'"),
        ("training.optimizer=adamw_torch_8bit", "needs torchao.*run pip install torchao"),
        ("training.optimizer=adamw8bit", "'adamw8bit'; the nearest is adamw_8bit, all are adamw_torch"),
        ("training.report_to=[wandb]", "names wandb, which needs wandb.*run pip install wandb"),
        ("training.report_to=[tensorboard, trackio]", "names tensorboard.*run pip install tensorboard"),
        ("training.packing=true", r"packs rows as TRL does.*run pip install 'secura\[trl\]'"),
        ("training.padding_free=true", "padding_free packs rows as TRL does"),
        ("push_to_hub='not a name'", "not a name is no name of a repository"),
    ],
)
def test_what_is_not_installed_is_refused_with_the_command_that_installs_it(
    setting: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _nothing_installed(monkeypatch)
    with pytest.raises(ConfigError, match=says):
        check_packages(load_config(assignments=[setting]))


def test_a_base_in_fewer_bits_is_refused_with_the_command_that_makes_it_possible(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _nothing_installed(monkeypatch)
    with pytest.raises(ConfigError, match=r"model\.load_in_4bit needs bitsandbytes.*pip install 'secura\[quantized\]'"):
        check_loading(ModelConfig(load_in_4bit=True))
    with pytest.raises(ConfigError, match="are both set"):
        check_loading(ModelConfig(load_in_4bit=True, load_in_8bit=True))
    check_loading(ModelConfig())


def test_flash_attention_without_its_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secura.experiments.models.loading.is_flash_attn_2_available", lambda: False)
    with pytest.raises(ConfigError, match=r"needs a CUDA GPU and the package flash-attn.*or use sdpa"):
        check_loading(ModelConfig(attn_implementation="flash_attention_2"))


def test_a_hub_that_lets_nobody_in_is_found_out_before_anything_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(self: object) -> None:
        raise OSError("no token\nat all")

    monkeypatch.setattr(huggingface_hub.HfApi, "whoami", nobody)
    with pytest.raises(ConfigError, match="the login to the Hub fails: no token at all; run hf auth login"):
        check_packages(load_config(assignments=["push_to_hub=me/adapter"]))


def test_every_optimizer_is_one_of_transformers() -> None:
    from transformers.training_args import OptimizerNames

    assert set(OPTIMIZERS) <= {name.value for name in OptimizerNames}
