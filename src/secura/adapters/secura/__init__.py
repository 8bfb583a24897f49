"""SECURA as a PEFT method: every combination of change, norm, reference and fold."""

from secura.adapters.secura.activity import LayerActivity, measure_activity
from secura.adapters.secura.config import SecuraConfig
from secura.adapters.secura.folding import fold, folded_tasks, undo
from secura.adapters.secura.layer import Linear, SecuraLayer
from secura.adapters.secura.model import SecuraModel

__all__ = [
    "LayerActivity",
    "Linear",
    "SecuraConfig",
    "SecuraLayer",
    "SecuraModel",
    "fold",
    "folded_tasks",
    "measure_activity",
    "undo",
]
