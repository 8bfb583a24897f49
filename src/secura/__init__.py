"""Fine-tune a language model without breaking what it already knows.

Importing secura makes its adapter known to PEFT, so `PeftModel.from_pretrained` can load it: at once where PEFT has
been imported, or else as soon as anything imports it. PEFT brings torch, which takes seconds; so neither is imported
here, nor is what `__all__` names before it is asked for, and `secura --help` answers at once.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from secura.after_import import after_import
from secura.errors import (
    BaseMismatchError,
    ConfigError,
    DataError,
    FoldError,
    InputError,
    MergeError,
    SecuraError,
    StoppedError,
    TrainingError,
)

if TYPE_CHECKING:
    __version__: str
    from secura.adapters import SecuraConfig, SecuraModel, fold, folded_tasks, undo
    from secura.training.fold_schedule import FoldCallback

__all__ = [
    "BaseMismatchError",
    "ConfigError",
    "DataError",
    "FoldCallback",
    "FoldError",
    "InputError",
    "MergeError",
    "SecuraConfig",
    "SecuraError",
    "SecuraModel",
    "StoppedError",
    "TrainingError",
    "__version__",
    "fold",
    "folded_tasks",
    "undo",
]

_IMPORTED_WHEN_ASKED_FOR = {
    "FoldCallback": "secura.training.fold_schedule",
    "SecuraConfig": "secura.adapters",
    "SecuraModel": "secura.adapters",
    "fold": "secura.adapters",
    "folded_tasks": "secura.adapters",
    "undo": "secura.adapters",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        globals()[name] = version("secura")
        return globals()[name]
    if name not in _IMPORTED_WHEN_ASKED_FOR:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name, obj=sys.modules[__name__])
    value = globals()[name] = getattr(import_module(_IMPORTED_WHEN_ASKED_FOR[name]), name)
    return value


def __dir__() -> list[str]:
    return list(__all__)


def _join_peft() -> None:
    import_module("secura.adapters")
    import_module("secura.export.save_pretrained").teach_save_pretrained()


after_import("peft", _join_peft)
