from pathlib import Path

import pytest
import yaml

from secura.errors import ConfigError
from secura.experiments.settings.layers import config_as_yaml, differences, load_config, setting_called
from secura.experiments.settings.names import METHOD_NAMES
from secura.experiments.settings.run import MethodConfig, RunConfig
from secura.experiments.settings.synonyms import SYNONYMS


def test_later_layers_win(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("training: {steps: 1, batch_size: 2, seed: 3}\nmethod: {name: lora}\n")
    flags = {"method.name": "dora", "data.path": None}
    config = load_config(str(path), ["training.batch_size=20", "training.seed=30", "method.adapter.r=4"], flags)
    assert (config.training.steps, config.training.batch_size, config.training.seed) == (1, 20, 30)
    assert (config.method.name, config.method.adapter) == ("dora", {"r": 4})
    assert config.data.path is None


@pytest.mark.parametrize("text", ["1e-3", "0.001", "1.0e-3"])
def test_a_rate_may_be_written_in_any_usual_way(text: str) -> None:
    assert load_config(assignments=[f"training.learning_rate={text}"]).training.learning_rate == 1e-3


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        ("data.too_lnog=drop", "unknown setting data.too_lnog; the nearest is data.too_long"),
        ("lerning_rate=1", "the nearest is training.learning_rate"),
        ("training.bath_size=1", "the nearest is training.batch_size"),
        ("trainin.steps=1", "the nearest is training"),
        ("method.name=loar", "unknown method 'loar'; the nearest is lora"),
        ("training.steps=many", "training.steps is 'many'"),
        ("training.steps=1.5", "training.steps is 1.5"),
        ("training.steps=0", "training.steps is 0"),
        ("training.learning_rate=.nan", "training.learning_rate is nan"),
        ("data.too_long=cut", "'refuse', 'drop' or 'truncate'"),
        ("retention.min_retention=1", "less than 1"),
        ("method.fold_every=often", "method.fold_every is 'often'"),
        ("training=3", "training is 3"),
        ("strategy.name=replya", "unknown strategy 'replya'; the nearest is replay"),
        ("training.steps={a: 1}", "training.steps is a section: input should be a valid integer"),
        ("method.fold_every=[1]", "method.fold_every is a list: input should be a valid integer"),
        ("training.steps", "not of the form"),
        ("training.steps.more=3", "unknown|training.steps"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_in_one_line(assignment: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as raised:
        load_config(assignments=[assignment])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("lr", "training.learning_rate"),
        ("training.lr", "training.learning_rate"),
        ("bf16", "training.precision=bf16"),
        ("training.max_seq_length", "data.max_length"),
        ("load_in_4bit", "model.load_in_4bit"),
        ("model.quantization", "model.load_in_4bit"),
        ("epochs", "training.epochs"),
        ("num_train_epochs", "training.epochs"),
        ("batch_size", "training.batch_size"),
        ("per-device-train-batch-size", "training.batch_size"),
        ("data.epochs", "training.epochs"),
        ("lora_r", "method.adapter.r"),
        ("output_dir", "out"),
    ],
)
def test_what_other_trainers_call_a_setting_leads_to_it(name: str, meant: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_config(assignments=[f"{name}=1"])
    assert str(raised.value) == f"unknown setting {name}; here it is {meant}."


def test_every_synonym_leads_to_a_setting_that_there_is() -> None:
    for name, meant in SYNONYMS.items():
        assert setting_called(name) == meant, name
        if "=" in meant:
            load_config(assignments=[meant])
    assert setting_called("rope_scaling") is None


@pytest.mark.parametrize(
    "content", ["[1, 2]", "a: [", "just text", "a: 2020-99-99", pytest.param("[" * 10_000, id="nested")]
)
def test_a_file_without_settings_is_refused_by_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"run\.yaml"):
        load_config(str(path))
    with pytest.raises(ConfigError, match="no such configuration file"):
        load_config(str(tmp_path / "missing.yaml"))


@pytest.mark.parametrize("key", ["out", "data.path", "model.path", "retention.path"])
def test_a_text_that_no_file_system_takes_is_refused_by_its_setting(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{key} holds a character of number 0, 'a\\x00b'"):
        load_config(None, [], {key: "a\0b"})


def test_the_printed_settings_read_back_as_they_were_and_explain_themselves(tmp_path: Path) -> None:
    config = load_config(assignments=["method.adapter={r: 4, target_modules: [q_proj]}", "training.warmup=1e-5"])
    text = config_as_yaml(config)
    path = tmp_path / "run.yaml"
    path.write_text(text)
    assert load_config(str(path)) == config
    leaves = [line for line in text.splitlines() if "#" in line]
    assert len(leaves) >= len(_leaf_names(yaml.safe_load(text)))


def _leaf_names(values: dict) -> list[str]:
    sections = [value for value in values.values() if isinstance(value, dict)]
    return [*values, *(name for section in sections for name in section)][: -len(sections)]


def test_differences_name_the_settings() -> None:
    old, new = RunConfig(), load_config(assignments=["training.steps=5", "method.adapter.r=4"])
    assert sorted(differences(old, new)) == ["method.adapter.r was None, now 4", "training.steps was None, now 5"]


def test_the_help_names_every_method() -> None:
    described = MethodConfig.model_fields["name"].description
    assert described is not None
    assert described.startswith(f"One of {', '.join(METHOD_NAMES)}.")
