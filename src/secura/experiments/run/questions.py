"""Asking a run's questions: of the base model before, and of the trained one after."""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from peft import PeftModel
from rich.console import Console
from transformers import PreTrainedTokenizerBase

from secura.evaluation.answer_loss import mean_answer_loss
from secura.evaluation.merged import merged_for_scoring
from secura.evaluation.open_answers import answer_prompts
from secura.evaluation.scoring import Model, ScoredAnswer, score_questions
from secura.experiments.run.prepare import PreparedRun
from secura.experiments.settings.run import RunConfig
from secura.tasks.prompting import answer_tokens
from secura.tasks.question import Item, Question


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What one model answered, in the order of the run's data."""

    new_task: list[ScoredAnswer]
    """To held-out questions of the new task."""
    new_task_loss: float | None
    """Nats per answer token, on all held-out rows."""
    retention: list[ScoredAnswer]
    """To the retention questions."""
    retention_loss: float | None
    """Nats per token, on retention rows that cannot be scored right or wrong."""
    said: list[str]
    """To `run.prompts`, which have no right answer."""


def ask(run: PreparedRun[RunConfig], model: Model, console: Console, *, trained: bool) -> Answers:
    """Ask everything: of the base model, or of the trained one as it would be exported."""
    which = "trained" if trained else "base"
    longest = run.config.scoring.max_answer_tokens
    test, _ = matchable(run.tokenizer, run.task.test, longest)
    retention, unmatched = matchable(run.tokenizer, run.retention, longest)
    count = len(test) + len(retention)
    began = time.monotonic()
    with (
        console.status(f"asking the {which} model {count} questions"),
        merged_for_scoring(model) if trained else base_alone(model),
    ):
        size, limit = run.config.scoring.batch_size, run.max_tokens
        # Asked apart, so that the new task's answers have no say in how knowledge is scored.
        answers = [score_questions(model, run.tokenizer, each, batch_size=size) for each in (test, retention)]
        losses = [
            mean_answer_loss(model, run.tokenizer, items, max_tokens=limit, batch_size=size)
            for items in (run.task.test, unmatched)
        ]
        said = answer_prompts(model, run.tokenizer, run.prompts, batch_size=size) if run.prompts else []
    seconds = time.monotonic() - began
    console.print(f"asked the {which} model {count} questions in {seconds:.0f} s", highlight=False)
    return Answers(
        new_task=answers[0],
        new_task_loss=losses[0],
        retention=answers[1],
        retention_loss=losses[1],
        said=said,
    )


def matchable(
    tokenizer: PreTrainedTokenizerBase, items: Sequence[Item], max_answer_tokens: int
) -> tuple[list[Question], list[Item]]:
    """Questions that can be scored right or wrong, and what is left to its loss alone."""
    questions: list[Question] = []
    rest: list[Item] = []
    for item in items:
        if isinstance(item, Question) and (
            item.choices
            or item.match != "exact"
            or (
                item.answer_turn is None
                and len(answer_tokens(tokenizer, item.asked, item.answer, end=False)) <= max_answer_tokens
            )
        ):
            questions.append(item)
        else:
            rest.append(item)
    return questions, rest


def base_alone(model: Model) -> AbstractContextManager[Any]:
    """The base model for as long as it is asked: an adapter's is there while the adapter is off."""
    return model.disable_adapter() if isinstance(model, PeftModel) else nullcontext()
