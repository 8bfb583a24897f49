"""Asking a model questions: by log-likelihood among choices, by generation otherwise.

The right answer is never in the input: a teacher-forced score asks an easier question than
a user will. docs/evaluation.md has every rule, and where other scorers differ.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from secura.evaluation.answer_match import is_right
from secura.evaluation.batch_size import BatchSize, Wanted
from secura.evaluation.causal_model import Model, context_length, in_evaluation_mode
from secura.evaluation.choice_scoring import choose_answers
from secura.evaluation.generation import generate_answers
from secura.evaluation.log_likelihoods import sum_log_likelihoods
from secura.tasks.prompting import answer_tokens, prompt_tokens
from secura.tasks.question import Match, Question

__all__ = [
    "SCORING_VERSION",
    "Model",
    "Progress",
    "ScoredAnswer",
    "answer_limits",
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

_LEAST_TOKENS = 24
"""Room for the sentence that a right answer stands in, where it need not stand alone."""


@dataclass(frozen=True, kw_only=True)
class ScoredAnswer:
    """What a model answered."""

    question: Question
    """The question that was asked."""
    given: str
    """The model's answer, stripped of white space at its ends."""
    correct: bool
    """Whether it is right, by the question's own rule."""


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
    free answer is generated greedily up to the end of sequence or of the chat's turn, or to
    `answer_limits`, and compared by the question's rule (`secura.evaluation.answer_match`).

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
        ScoredAnswer(question=question, given=given, correct=is_right(question, given))
        for question, given in zip(questions, answers, strict=True)
    ]


def answer_limits(tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question]) -> tuple[int, tuple[str, ...]]:
    """How many tokens answers to questions of one rule may have, and which strings end them.

    An answer that must be right letter for letter ends at a line break, unless a right one
    holds one, and may be 8 tokens longer than the longest right one. Any other may go over
    several lines, and has 24 tokens at least: the right answer may stand inside a sentence.
    """
    answers = [answer for question in questions for answer in question.right_answers]
    longest = max(
        len(answer_tokens(tokenizer, question.asked, answer, end=False))
        for question in questions
        for answer in question.right_answers
    )
    if any(question.match != "exact" for question in questions):
        return max(_LEAST_TOKENS, longest + _SPARE_TOKENS), ()
    one_line = not any("\n" in answer.strip() for answer in answers)
    return longest + _SPARE_TOKENS, ("\n",) if one_line else ()


def _say(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    size: BatchSize,
    on_progress: Progress | None,
) -> list[str]:
    """Free answers, those of each rule generated together, since the rule says where they end."""
    members: dict[Match, list[int]] = {}
    for index, question in enumerate(questions):
        members.setdefault(question.match, []).append(index)
    said: dict[int, str] = {}
    for indices in members.values():
        own = [questions[index] for index in indices]
        max_tokens, stop = answer_limits(tokenizer, own)
        answers = generate_answers(
            model,
            tokenizer,
            [prompt_tokens(tokenizer, question.asked) for question in own],
            max_tokens=max_tokens,
            stop=stop,
            batch_size=size,
            # Whoever asks has refused prompts that do not fit, so none needs to lose its beginning.
            least_room=1,
            on_progress=on_progress,
        )
        said.update((index, each.text) for index, each in zip(indices, answers, strict=True))
    return [said[index] for index in range(len(questions))]
