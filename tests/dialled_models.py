"""A small base, an adapter that turns some of its answers around, and questions on which it gains and loses."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from tiny_models import tiny_model, tiny_tokenizer
from transformers import PreTrainedModel

from secura.evaluation.scoring import score_questions
from secura.experiments.models.base_record import BASE_RECORD, base_fingerprint, base_record
from secura.experiments.settings.run import ModelConfig
from secura.tasks.question import Question

WORDS = ("red", "blue", "grey", "sky", "sea")


def turned_adapter(folder: Path, config: PeftConfig | None = None, *, size: float = 0.05) -> Path:
    """An adapter for `tiny_model`, drawn at random."""
    chosen = config or LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")
    base = tiny_model()
    record = base_record(ModelConfig(path="tiny"), base_fingerprint(base))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = get_peft_model(base, chosen)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(size * torch.randn(parameter.shape, generator=draw))
    model.save_pretrained(str(folder))
    (folder / BASE_RECORD).write_text(json.dumps(record))
    return folder


def answered_by(model: PreTrainedModel | PeftModel, count: int, *, asked: str) -> list[Question]:
    """Questions whose right answer is what a model answers."""
    questions = [
        Question(prompt=f"{asked} {number}?", answer=WORDS[0], choices=WORDS, family=f"{asked} {number % 2}")
        for number in range(count)
    ]
    given = score_questions(model.eval(), tiny_tokenizer(), questions)
    return [replace(question, answer=each.given) for question, each in zip(questions, given, strict=True)]


def questions_file(path: Path, questions: Sequence[Question]) -> Path:
    """Questions as a file of rows."""
    rows: list[dict[str, Any]] = [
        {
            "question": each.prompt,
            "choices": list(each.choices),
            "answer": each.choices.index(each.answer),
            "family": each.family,
        }
        for each in questions
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
