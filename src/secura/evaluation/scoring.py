"""Asking a model questions: by log-likelihood among choices, by generation otherwise.

The right answer is never in the input: a teacher-forced score asks an easier question than
a user will. docs/evaluation.md has every rule, and where other scorers differ.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from secura.evaluation.batch_size import BatchSize, Wanted
from secura.evaluation.causal_model import Model, context_length, in_evaluation_mode
from secura.evaluation.choice_scoring import choose_answers
from secura.evaluation.generation import generate_answers
from secura.evaluation.log_likelihoods import sum_log_likelihoods
from secura.tasks.prompting import answer_tokens, prompt_tokens
from secura.tasks.question import Question

__all__ = [
    "SCORING_VERSION",
    "Model",
    "Progress",
    "ScoredAnswer",
    "context_length",
    "score_questions",
    "sum_log_likelihoods",
]

SCORING_VERSION = 3
"""Stored with every score; raised whenever the same model would score differently."""

Progress = Callable[[int], None]
"""Called with the number of questions just answered."""

_SPARE_TOKENS = 8
"""How many tokens a generated answer may be longer than the longest right one."""


@dataclass(frozen=True, kw_only=True)
class ScoredAnswer:
    """What a model answered."""

    question: Question
    """The question that was asked."""
    given: str
    """The model's answer, stripped of white space at its ends."""
    correct: bool
    """Whether it is the right one, letter for letter."""


def score_questions(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    *,
    batch_size: BatchSize | Wanted = 32,
    on_progress: Progress | None = None,
) -> list[ScoredAnswer]:
    """Ask every question, in batches of like length.

    Multiple choice takes the choice of highest log-likelihood, by the question's own rule. A
    free answer is generated greedily up to the end of sequence, or to a line break where no
    right answer holds one, and must equal the right answer once both are stripped.

    Returns:
        One scored answer for each question, in their order; the same for any `batch_size`
        up to the rounding of a batched product.
    """
    size = batch_size if isinstance(batch_size, BatchSize) else BatchSize(batch_size, model.device)
    choosing = [question for question in questions if question.choices]
    free = [question for question in questions if not question.choices]
    with in_evaluation_mode(model):
        chosen = choose_answers(model, tokenizer, choosing, batch_size=size, on_progress=on_progress)
        said = _say(model, tokenizer, free, size, on_progress)
    choices = (question.choices[each.chosen] for question, each in zip(choosing, chosen, strict=True))
    texts = iter(said)
    answers = [(next(choices) if question.choices else next(texts)).strip() for question in questions]
    return [
        ScoredAnswer(question=question, given=given, correct=given == question.answer.strip())
        for question, given in zip(questions, answers, strict=True)
    ]


def _say(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    size: BatchSize,
    on_progress: Progress | None,
) -> list[str]:
    if not questions:
        return []
    answers = [answer_tokens(tokenizer, question.asked, question.answer, end=False) for question in questions]
    one_line = not any("\n" in question.answer.strip() for question in questions)
    said = generate_answers(
        model,
        tokenizer,
        [prompt_tokens(tokenizer, question.asked) for question in questions],
        max_tokens=max(map(len, answers)) + _SPARE_TOKENS,
        stop=("\n",) if one_line else (),
        batch_size=size,
        # Whoever asks has refused prompts that do not fit, so none needs to lose its beginning.
        least_room=1,
        on_progress=on_progress,
    )
    return [each.text for each in said]
