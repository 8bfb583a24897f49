"""How PEFT learns of SECURA: a member of its `PeftType` enum, and its four lookup tables.

PEFT has no entry points for methods that live outside it. It looks methods up by enum
member, and transformers asks that member for `.value`, so a plain string is not enough.
"""

from typing import Any, cast

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import PeftType, register_peft_method

from secura.adapters.secura.config import PEFT_TYPE_IN_FILES, PEFT_TYPE_NAME, SecuraConfig
from secura.adapters.secura.model import SecuraModel


def register_secura() -> None:
    """Make SECURA a PEFT method like any built-in one; harmless when called again."""
    if PEFT_TYPE_NAME in PeftType.__members__:
        return
    member = str.__new__(PeftType, PEFT_TYPE_NAME)
    member._name_ = PEFT_TYPE_NAME
    member._value_ = PEFT_TYPE_NAME
    cast(Any, member).__objclass__ = PeftType
    cast(Any, member)._sort_order_ = len(PeftType.__members__)
    # Before the member map knows the name: EnumType refuses to set a member it knows.
    type.__setattr__(PeftType, PEFT_TYPE_NAME, member)
    enum_tables = cast(Any, PeftType)
    enum_tables._member_names_.append(PEFT_TYPE_NAME)
    enum_tables._member_map_[PEFT_TYPE_NAME] = member
    enum_tables._value2member_map_[PEFT_TYPE_NAME] = member
    register_peft_method(name=PEFT_TYPE_NAME.lower(), config_cls=SecuraConfig, model_cls=SecuraModel)
    cast(Any, PEFT_TYPE_TO_CONFIG_MAPPING)[PEFT_TYPE_IN_FILES] = SecuraConfig
