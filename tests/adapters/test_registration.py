import json
import pickle
from pathlib import Path

from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import PeftType

from secura import SecuraConfig, SecuraModel
from secura.adapters.registration import register_secura
from secura.adapters.secura.config import plain_peft_type


def test_secura_is_a_member_of_the_enum_like_any_built_in_method() -> None:
    member = PeftType.SECURA  # type: ignore[attr-defined]
    assert isinstance(member, PeftType)
    assert (member.name, member.value) == ("SECURA", "SECURA")
    assert PeftType("SECURA") is member
    assert PeftType["SECURA"] is member
    assert list(PeftType).count(member) == 1
    assert member == "SECURA"
    assert hash(member) == hash("SECURA")


def test_the_member_prints_and_pickles_as_a_built_in_one_does() -> None:
    member = PeftType("SECURA")
    assert repr(member) == repr(PeftType.LORA).replace("LORA", "SECURA")
    assert str(member) == str(PeftType.LORA).replace("LORA", "SECURA")
    assert pickle.loads(pickle.dumps(member)) is member


def test_every_table_of_peft_knows_secura() -> None:
    assert PEFT_TYPE_TO_CONFIG_MAPPING["SECURA"] is SecuraConfig  # type: ignore[index]
    assert PEFT_TYPE_TO_TUNER_MAPPING["SECURA"] is SecuraModel  # type: ignore[index]
    assert PEFT_TYPE_TO_PREFIX_MAPPING["SECURA"] == "secura_"  # type: ignore[index]
    assert isinstance(PeftConfig.from_peft_type(peft_type="SECURA"), SecuraConfig)


def test_registering_again_changes_nothing() -> None:
    before = list(PeftType)
    register_secura()
    assert list(PeftType) == before
    assert PEFT_TYPE_TO_CONFIG_MAPPING["SECURA"] is SecuraConfig  # type: ignore[index]


def test_a_saved_adapter_tells_whoever_does_not_know_secura_what_to_do(tmp_path: Path) -> None:
    SecuraConfig().save_pretrained(str(tmp_path))
    said = json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"]
    assert said.startswith("SECURA: ")
    assert "`import secura`" in said
    assert PeftConfig.from_pretrained(str(tmp_path)).peft_type is PeftType.SECURA  # type: ignore[attr-defined]
    assert plain_peft_type(said) == plain_peft_type("SECURA") == "SECURA"
    assert plain_peft_type("LORA") == "LORA"


def test_an_adapter_that_was_saved_under_the_bare_name_is_still_loaded(tmp_path: Path) -> None:
    SecuraConfig(r=3).save_pretrained(str(tmp_path))
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "peft_type": "SECURA"}))
    assert PeftConfig.from_pretrained(str(tmp_path)).r == 3  # type: ignore[attr-defined]
