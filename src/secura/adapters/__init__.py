"""Equations as layers that PEFT can inject. Importing this package registers them with PEFT."""

from secura.adapters.registration import register_secura
from secura.adapters.secura import SecuraConfig, SecuraModel, fold, folded_tasks, measure_activity, undo

register_secura()

__all__ = ["SecuraConfig", "SecuraModel", "fold", "folded_tasks", "measure_activity", "undo"]
