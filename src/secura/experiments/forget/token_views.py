"""A few flips looked at token by token, under both models."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

from rich.console import Console
from transformers import PreTrainedTokenizerBase

from secura.evaluation.task_score import ItemScore
from secura.evaluation.token_likelihoods import token_log_likelihoods
from secura.experiments.forget.result import Flip, TokenView
from secura.experiments.models.pair import ModelPair, ReadyModel
from secura.tasks.prompting import answer_tokens, end_tokens, prompt_tokens

_VIEWED_TOKENS = 200
"""Tokens of an answer that are looked at one by one, at most."""

_Answer = tuple[str, list[int], list[int], tuple[str, ...]]
"""An answer, the tokens of its prompt, its own tokens, and these as text."""


def with_token_views(flips: Sequence[Flip], pair: ModelPair, *, at_most: int, console: Console) -> list[Flip]:
    """The flips, a few of them with their tokens: losses before gains, of each task in turn."""
    rank: dict[tuple[str, str], int] = {}
    order = []
    for place, flip in enumerate(flips):
        key = flip.task, flip.direction
        rank[key] = rank.get(key, 0) + 1
        order.append((flip.direction == "gained", rank[key], place))
    chosen = [place for _, _, place in sorted(order)[:at_most]]
    if not chosen:
        return list(flips)
    with console.status(f"reading {len(chosen)} flips token by token"):
        some = [flips[place] for place in chosen]
        asked, after = _read(pair.tuned(), some)  # the one in memory comes first
        same, before = _read(pair.base(), some)
    if same != asked:
        pair.notes.append("the two models cut text into different tokens, so no flip is shown token by token")
        return list(flips)
    viewed = list(flips)
    for place, each, old, new in zip(chosen, asked, before, after, strict=True):
        views = [
            TokenView(answer=answer, tokens=text, base=tuple(by_base), tuned=tuple(by_tuned))
            for (answer, _, _, text), by_base, by_tuned in zip(each, old, new, strict=True)
        ]
        viewed[place] = replace(flips[place], views=tuple(views))
    return viewed


def _read(
    opened: AbstractContextManager[ReadyModel], flips: Sequence[Flip]
) -> tuple[list[list[_Answer]], list[list[list[float | None]]]]:
    """Both answers to each flip as tokens of one model, and its log-likelihoods of these."""
    with opened as ready:
        asked = [_answers_in_tokens(flip, ready.tokenizer) for flip in flips]
        return asked, [_token_likelihoods(ready, each) for each in asked]


def _answers_in_tokens(flip: Flip, tokenizer: PreTrainedTokenizerBase) -> list[_Answer]:
    """The base's answer and the tuned model's, each with the end of an answer that came to one."""
    prompt = prompt_tokens(tokenizer, flip.question.asked)
    answers = []
    for given in (flip.before, flip.after):
        tokens = _tokens_of(given, flip, tokenizer)[:_VIEWED_TOKENS]
        text = tuple(str(tokenizer.decode([token])) for token in tokens)
        answers.append((given.given, prompt, tokens, text))
    return answers


def _tokens_of(given: ItemScore, flip: Flip, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    ended = not flip.question.choices and not given.truncated
    if given.given:
        return answer_tokens(tokenizer, flip.question.asked, given.given, end=ended)
    return end_tokens(tokenizer) if ended else []


def _token_likelihoods(ready: ReadyModel, answers: Sequence[_Answer]) -> list[list[float | None]]:
    return [token_log_likelihoods(ready.model, ready.tokenizer, prompt, tokens) for _, prompt, tokens, _ in answers]
