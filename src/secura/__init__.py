"""Fine-tune a language model without breaking what it already knows.

Importing secura registers its adapter with PEFT, so `PeftModel.from_pretrained` can load it.
The `secura` command imports what it needs when it needs it, so that `--help` answers at once.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

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

# `python -m secura` has no name yet while this is imported.
_IS_COMMAND = Path(sys.argv[0]).stem == "secura" or (sys.argv[0] == "-m" and "secura" in sys.orig_argv[:4])

if TYPE_CHECKING or not _IS_COMMAND:
    from secura.adapters import SecuraConfig, SecuraModel, fold, folded_tasks, undo
    from secura.training.fold_schedule import FoldCallback
else:
    # OpenMP threads spin while they wait. Where another process wanted the same two cores, a run
    # of 12 seconds took 150; asleep they lost nothing. OpenMP reads this when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

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
    "fold",
    "folded_tasks",
    "undo",
]
