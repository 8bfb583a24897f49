"""One model on one task: asked, answered, and measured by the task's metric.

| the task is | asked by | `value` | `also` |
|---|---|---|---|
| choice | `choice_scoring` | share of questions whose chosen answer is right | `accuracy`, `accuracy_by_length` |
| generation, right or wrong | `generation`, `answer_match` | share of right answers | |
| generation, ROUGE | `generation` | mean over the answers | `rouge1`, `rougeL` |
| generation, BLEU or chrF | `generation` | of all answers as one corpus | `bleu`, `chrf` |
| text | `perplexity` | exp of the mean nats per token | `nats_per_token`, `bits_per_byte` |

All but perplexity lie between 0 and 1, higher is better.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean

from transformers import PreTrainedTokenizerBase

from secura.errors import DataError
from secura.evaluation.answer_match import is_right
from secura.evaluation.batch_size import BatchSize, Wanted
from secura.evaluation.causal_model import Model, in_evaluation_mode
from secura.evaluation.choice_scoring import choose_answers
from secura.evaluation.generation import GeneratedAnswer, generate_answers
from secura.evaluation.perplexity import text_losses
from secura.evaluation.task_score import ItemScore, TaskScore
from secura.evaluation.text_metrics import (
    corpus_bleu,
    corpus_chrf,
    number_match,
    rouge,
    sentence_bleu,
    sentence_chrf,
)
from secura.tasks.prompting import prompt_tokens
from secura.tasks.question import Item, PlainText, Question
from secura.tasks.task import Metric, Task

Progress = Callable[[int], None]
"""Called with the number of items just scored."""


def score_task(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    items: Sequence[Item],
    *,
    batch_size: BatchSize | Wanted = "auto",
    on_progress: Progress | None = None,
) -> TaskScore:
    """Ask a model all items of a task.

    The model is left as it was: its mode, its weights and its generation settings.

    Args:
        model: any causal language model, with or without an adapter.
        tokenizer: its tokenizer; where it has a chat template, that is used.
        task: says how an answer is found and measured.
        items: what is asked, in the shape that the task's metric needs.
        batch_size: rows at once; `auto` starts high and halves where memory runs out. A
            `BatchSize` remembers from task to task.
        on_progress: called after every batch.

    Returns:
        The score, with every item in the order given; the same for any order of the items,
        and for any `batch_size` up to the rounding of a batched product.

    Raises:
        DataError: for no items, or an item of another shape than the task's.
        SecuraError: if the model answers NaN.
    """
    if not items:
        raise DataError(f"task {task.name} has no items to score; give it rows.")
    with in_evaluation_mode(model):
        size = batch_size if isinstance(batch_size, BatchSize) else BatchSize(batch_size, model.device)
        if task.kind == "text":
            return _score_texts(model, tokenizer, task, _texts(task, items), size, on_progress)
        questions = _questions(task, items)
        if task.kind == "choice":
            return _score_choices(model, tokenizer, task, questions, size, on_progress)
        return _score_answers(model, tokenizer, task, questions, size, on_progress)


def _texts(task: Task, items: Sequence[Item]) -> list[PlainText]:
    texts = [item for item in items if isinstance(item, PlainText)]
    if len(texts) < len(items):
        raise DataError(
            f"task {task.name} is scored by {task.metric}, which needs rows with {{text}}; it has questions."
        )
    return texts


def _questions(task: Task, items: Sequence[Item]) -> list[Question]:
    questions = [item for item in items if isinstance(item, Question)]
    choosing = task.kind == "choice"
    if len(questions) < len(items) or any(bool(question.choices) != choosing for question in questions):
        needed = "{question, choices, answer}" if choosing else "{prompt, target}"
        raise DataError(f"task {task.name} is scored by {task.metric}, so all its rows must be {needed}.")
    # A row of the task has its rule already; a question made elsewhere is given it.
    if task.metric == "exact_match":
        return [replace(question, match="exact") for question in questions]
    return [replace(question, by_length=task.by_length) for question in questions]


def _score_choices(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    questions: Sequence[Question],
    size: BatchSize,
    on_progress: Progress | None,
) -> TaskScore:
    chosen = choose_answers(model, tokenizer, questions, batch_size=size, on_progress=on_progress)
    pairs = list(zip(questions, chosen, strict=True))
    right = {
        "accuracy": [question.choices[each.by_sum] == question.answer for question, each in pairs],
        "accuracy_by_length": [question.choices[each.by_length] == question.answer for question, each in pairs],
    }
    also = {name: fmean(correct) for name, correct in right.items()}
    return TaskScore(
        task=task.name,
        version=task.version,
        metric=task.metric,
        value=also[task.metric],
        also=also,
        items=tuple(
            ItemScore(
                item=question,
                given=question.choices[each.chosen].strip(),
                score=float(correct),
                correct=correct,
                likelihoods=each.likelihoods,
                tokens=each.tokens,
            )
            for (question, each), correct in zip(pairs, right[task.metric], strict=True)
        ),
        prompts_cut=sum(each.prompt_cut for each in chosen),
    )


def _score_answers(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    questions: Sequence[Question],
    size: BatchSize,
    on_progress: Progress | None,
) -> TaskScore:
    answers = generate_answers(
        model,
        tokenizer,
        [prompt_tokens(tokenizer, question.asked) for question in questions],
        max_tokens=task.max_answer_tokens,
        stop=task.stop,
        batch_size=size,
        on_progress=on_progress,
    )
    given = [answer.text.strip() for answer in answers]
    scores, value, also = measure(task.metric, given, questions)
    return TaskScore(
        task=task.name,
        version=task.version,
        metric=task.metric,
        value=value,
        also=also,
        items=tuple(_answer_score(task.metric, *each) for each in zip(questions, answers, given, scores, strict=True)),
        truncated=sum(answer.truncated for answer in answers),
        prompts_cut=sum(answer.prompt_cut for answer in answers),
    )


def _answer_score(metric: Metric, question: Question, answer: GeneratedAnswer, given: str, score: float) -> ItemScore:
    return ItemScore(
        item=question,
        given=given,
        score=score,
        correct=bool(score) if metric in ("exact_match", "match", "number_match") else None,
        truncated=answer.truncated,
        tokens=answer.tokens,
    )


def measure(
    metric: Metric, given: Sequence[str], questions: Sequence[Question]
) -> tuple[list[float], float, dict[str, float]]:
    """Measure generated answers to questions.

    Returns:
        Each answer's score, the headline number, and other metrics of the same answers.
    """
    if metric in ("exact_match", "match"):
        scores = [float(is_right(question, said)) for question, said in zip(questions, given, strict=True)]
        return scores, fmean(scores), {}
    right = [question.answer for question in questions]
    pairs = list(zip(given, right, strict=True))
    if metric == "number_match":
        scores = [float(number_match(*pair)) for pair in pairs]
        return scores, fmean(scores), {}
    if metric in ("rouge1", "rougeL"):
        overlaps = [rouge(*pair) for pair in pairs]
        also = {name: fmean(each[name] for each in overlaps) for name in ("rouge1", "rougeL")}
        return [each[metric] for each in overlaps], also[metric], also
    if metric in ("bleu", "chrf"):
        sentence = sentence_bleu if metric == "bleu" else sentence_chrf
        also = {"bleu": corpus_bleu(given, right), "chrf": corpus_chrf(given, right)}
        return [sentence(*pair) for pair in pairs], also[metric], also
    raise ValueError(f"{metric} does not measure generated answers.")


def _score_texts(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    texts: Sequence[PlainText],
    size: BatchSize,
    on_progress: Progress | None,
) -> TaskScore:
    losses = text_losses(model, tokenizer, [text.text for text in texts], batch_size=size, on_progress=on_progress)
    nats, tokens = math.fsum(each.nats for each in losses), sum(each.tokens for each in losses)
    if not tokens:
        raise DataError(f"task {task.name} has no tokens to score: its texts are empty.")
    mean, read = nats / tokens, sum(len(text.text.encode()) for text in texts)
    return TaskScore(
        task=task.name,
        version=task.version,
        metric=task.metric,
        value=math.exp(mean) if mean < 700 else math.inf,  # beyond, exp leaves double precision
        also={"nats_per_token": mean, "bits_per_byte": nats / math.log(2) / max(1, read)},
        items=tuple(
            ItemScore(item=text, given="", score=each.nats_per_token, tokens=each.tokens)
            for text, each in zip(texts, losses, strict=True)
        ),
    )
