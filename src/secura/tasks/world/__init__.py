"""A small invented world and a tiny model pretrained on it: forgetting one can count."""

from secura.tasks.world.bundled import bundled_model_path, load_bundled_model, load_bundled_tokenizer
from secura.tasks.world.knowledge import KNOWLEDGE, knowledge_questions
from secura.tasks.world.new_tasks import DEFAULT_TASK, NEW_TASKS, SEQUENCE, NewTask

__all__ = [
    "DEFAULT_TASK",
    "KNOWLEDGE",
    "NEW_TASKS",
    "SEQUENCE",
    "NewTask",
    "bundled_model_path",
    "knowledge_questions",
    "load_bundled_model",
    "load_bundled_tokenizer",
]
