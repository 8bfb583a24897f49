"""What a model says to open prompts, and which answers a fine-tune changed most.

There is no right answer to score. A new task's style that leaks (*Thank you for writing to Acme!* to *What is 2 + 2?*)
is seen by reading, and the answers that changed most are the ones to read.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from secura.evaluation.answer_match import normalised
from secura.evaluation.batch_size import BatchSize, Wanted
from secura.evaluation.causal_model import Model, in_evaluation_mode
from secura.evaluation.generation import generate_answers
from secura.tasks.prompting import prompt_tokens


@dataclass(frozen=True, kw_only=True)
class ChangedAnswer:
    """Two models' answers to one open prompt."""

    prompt: str
    """What was asked."""
    before: str
    """The base model's answer."""
    after: str
    """The trained model's answer."""
    change: float
    """Share of their words that the two do not have in common: 0 is the same words, 1 none."""


def answer_prompts(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    max_tokens: int = 48,
    batch_size: BatchSize | Wanted = "auto",
) -> list[str]:
    """Answer each prompt greedily, up to the model's own end or `max_tokens`, and leave the model as it was."""
    with in_evaluation_mode(model):
        answers = generate_answers(
            model,
            tokenizer,
            [prompt_tokens(tokenizer, prompt) for prompt in prompts],
            max_tokens=max_tokens,
            batch_size=batch_size,
        )
    return [answer.text.strip() for answer in answers]


def most_changed(prompts: Sequence[str], before: Sequence[str], after: Sequence[str]) -> list[ChangedAnswer]:
    """Pair the answers of two models, the most changed first; equally changed ones keep their order.

    Args:
        prompts: what was asked.
        before: the base model's answers, in the same order.
        after: the trained model's.
    """
    answers = [
        ChangedAnswer(prompt=prompt, before=old, after=new, change=words_apart(old, new))
        for prompt, old, new in zip(prompts, before, after, strict=True)
    ]
    return sorted(answers, key=lambda answer: -answer.change)


def words_apart(first: str, second: str) -> float:
    """How much two texts differ: 1 - 2c / (m + n), with m and n words, c of them in common, as they read.

    A word that is there twice counts twice, and order does not. Two texts without a word do not differ.
    """
    words = [Counter(normalised(text).split()) for text in (first, second)]
    count = words[0].total() + words[1].total()
    return 1 - 2 * (words[0] & words[1]).total() / count if count else 0.0
