"""Mean nats per answer token: what a score says where exact match says nothing.

A model that learns to summarise will hardly ever repeat a right answer letter for letter;
how surprised it is by right answers still falls.
"""

import math
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from secura.evaluation.causal_model import Model, in_evaluation_mode
from secura.evaluation.log_likelihoods import sum_log_likelihoods
from secura.tasks.prompting import answer_tokens, prompt_tokens, token_ids
from secura.tasks.question import Item, PlainText


def mean_answer_loss(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Item],
    *,
    max_tokens: int,
    batch_size: int = 32,
) -> float | None:
    """Nats per token of the right answers, or of the whole text, over all tokens of `items`.

    Tokens are counted over the items together, so a long answer weighs more than a short
    one. A text longer than `max_tokens` is scored up to there.

    Returns:
        The mean, or None where there is nothing to score.
    """
    pairs = []
    for item in items:
        if isinstance(item, PlainText):
            tokens = token_ids(tokenizer, item.text, special=True)[:max_tokens]
            pairs.append((tokens[:1], tokens[1:]))
        else:
            prompt = prompt_tokens(tokenizer, item.asked)
            pairs.append((prompt, answer_tokens(tokenizer, item.asked, item.answered, end=True)))
    pairs = [(context, tokens) for context, tokens in pairs if tokens]
    count = sum(len(tokens) for _, tokens in pairs)
    if not count:
        return None
    with in_evaluation_mode(model):
        return -math.fsum(sum_log_likelihoods(model, tokenizer, pairs, batch_size=batch_size)) / count
