import pickle

from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import PeftType

from secura import SecuraConfig, SecuraModel
from secura.adapters.registration import register_secura


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
