"""The form of a new run makes the YAML that `secura train` reads, and says what is wrong beside the field."""

from pathlib import Path

import pytest

from secura.experiments.methods.defaults import with_method_defaults
from secura.experiments.settings.layers import config_as_yaml, load_config, read_yaml
from secura.studio.form import (
    FIELDS,
    MORE,
    NAME,
    FormError,
    checked_settings,
    form_of,
    name_for,
    set_by_hand,
    settings_as_yaml,
)

WHOLE = {
    "model": "path/to/model",
    "data": "123",
    "retain": "everyday, mine.jsonl",
    "keep": "0.98",
    "method": "lora",
    "steps": "40",
    "learning_rate": "1e-3",
    "batch_size": " 8 ",
    "seed": "3",
    NAME: "",
    MORE: "training.schedule=cosine\n\nmethod.adapter.r=16\ndata.columns={prompt: question}\n",
}


def test_the_yaml_of_a_form_is_read_by_the_command_as_the_same_settings(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(settings_as_yaml(checked_settings(WHOLE)))
    config = load_config(str(file))
    flags = {"model.path": "path/to/model", "data.path": "123", "retention.path": "everyday, mine.jsonl"}
    given = ["retention.keep=0.98", "method.name=lora", "training.steps=40", "training.learning_rate=1e-3"]
    more = ["training.batch_size=8", "training.seed=3", "training.schedule=cosine", "method.adapter.r=16"]
    assert config == load_config(None, [*given, *more, "data.columns={prompt: question}"], flags)


def test_an_empty_form_is_the_demonstration(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(settings_as_yaml(checked_settings({})))
    assert load_config(str(file)) == load_config()


def test_every_field_is_a_setting_of_its_own() -> None:
    config = load_config()
    for field in FIELDS:
        section, _, name = field.setting.partition(".")
        assert hasattr(getattr(config, section), name), field.setting
    assert len({field.name for field in FIELDS} | {NAME, MORE}) == len(FIELDS) + 2


def test_a_form_filled_in_from_its_settings_makes_them_again() -> None:
    values = checked_settings(WHOLE)
    form = form_of(values)
    assert form["learning_rate"] == "0.001"
    assert checked_settings(form) == values


def test_a_run_that_was_begun_in_a_terminal_fills_the_form_with_what_is_not_by_default(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    config = with_method_defaults(load_config(None, ["training.steps=7", "training.seed=2"], {"out": "runs/x"}))
    file.write_text(config_as_yaml(config))
    form = form_of(set_by_hand(read_yaml(file)))
    assert (form["steps"], form["seed"]) == ("7", "2")
    assert "out" not in form[MORE]
    assert with_method_defaults(load_config(None, form[MORE].splitlines())).training.steps is None


@pytest.mark.parametrize(
    ("form", "field", "says"),
    [
        ({"steps": "0"}, "steps", "training.steps is 0: "),
        ({"steps": "many"}, "steps", "training.steps is 'many': "),
        ({"keep": "98"}, "keep", "retention.keep is 98: "),
        ({"keep": "0.98", "retain": "none"}, "keep", "retention.keep needs questions"),
        ({"method": "lorra"}, "method", "the nearest is lora"),
        ({"model": "path/to/model"}, "data", "your own model needs your own data"),
        ({"batch_size": "["}, "batch_size", "the value is not YAML"),
        ({MORE: "training.step=3"}, "steps", "the nearest is training.steps"),
        ({MORE: "steps"}, "", "is not of the form a.b=value"),
        ({MORE: "out=/etc"}, "", "out is the folder of the run"),
        ({"data": "mine.py"}, "", "mine.py is a Python file, and the studio runs none"),
        ({"retain": "everyday, there/mine.py"}, "", "there/mine.py is a Python file"),
        ({MORE: "data.mix={more.py: 0.5}"}, "", "more.py is a Python file"),
    ],
)
def test_what_the_settings_refuse_is_said_in_their_own_sentence_beside_the_field(
    form: dict[str, str], field: str, says: str
) -> None:
    with pytest.raises(FormError) as raised:
        checked_settings(form)
    assert says in raised.value.sentence
    assert raised.value.field == field


def test_a_run_without_a_name_gets_one_for_what_it_does(tmp_path: Path) -> None:
    taken = {"secura", "lora-mine", "lora-mine-2"}.__contains__
    assert name_for(tmp_path, {}, {}, taken) == "secura-2"
    values = {"model": {"path": "m"}, "data": {"path": "there/mine.jsonl"}}
    assert name_for(tmp_path, {}, values, taken) == "lora-mine-3"
    assert name_for(tmp_path, {}, {"method": {"name": "dora"}, "data": {"path": "org/set:x"}}, taken) == "dora-set"


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", ".hidden", "-rf", "a b", "..", "x" * 300])
def test_a_name_stays_in_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(FormError, match="no name of a folder") as raised:
        name_for(tmp_path, {NAME: name}, {}, lambda _: False)
    assert raised.value.field == NAME


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormError, match="x is there already"):
        name_for(tmp_path, {NAME: "x"}, {}, lambda name: name == "x")
