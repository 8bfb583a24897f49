"""How well a model predicts plain text.

    perplexity = exp(nats of all tokens of all texts / number of those tokens)

Every token of a text is scored once. The first is given the beginning-of-sequence token, or
the end-of-sequence token where the tokenizer has none, since that is what texts were parted
by in pretraining. A text longer than the context is read in windows that overlap by half: each
token beyond the first window has at least half a context before it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from secura.evaluation.batch_size import BatchSize, Wanted
from secura.evaluation.causal_model import Model, context_length, start_tokens
from secura.evaluation.log_likelihoods import sum_log_likelihoods
from secura.tasks.prompting import token_ids

_WINDOW_WITHOUT_LIMIT = 2048
"""Tokens read at once where neither model nor tokenizer names a context."""


@dataclass(frozen=True, kw_only=True)
class TextLoss:
    """What one text costs."""

    nats: float
    """Summed over its tokens."""
    tokens: int
    """How many were scored."""

    @property
    def nats_per_token(self) -> float:
        """The mean; 0 for a text without tokens."""
        return self.nats / self.tokens if self.tokens else 0.0


def text_losses(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    batch_size: BatchSize | Wanted = "auto",
    on_progress: Callable[[int], None] | None = None,
) -> list[TextLoss]:
    """What each text costs, in their order."""
    width = context_length(model, tokenizer) or _WINDOW_WITHOUT_LIMIT
    start = start_tokens(tokenizer)
    windows = [_windows(start + token_ids(tokenizer, text, special=False), width) for text in texts]
    text_of = [index for index, own in enumerate(windows) for _ in own]
    missing = [len(own) for own in windows]
    if on_progress and not all(missing):
        on_progress(missing.count(0))

    def count(scored: list[int]) -> None:
        for window in scored:
            missing[text_of[window]] -= 1
        if on_progress:
            on_progress(sum(missing[text] == 0 for text in {text_of[window] for window in scored}))

    pairs = [window for own in windows for window in own]
    sums = iter(sum_log_likelihoods(model, tokenizer, pairs, batch_size=batch_size, on_scored=count))
    return [
        TextLoss(nats=-math.fsum(next(sums) for _ in own), tokens=sum(len(scored) for _, scored in own))
        for own in windows
    ]


def _windows(tokens: list[int], width: int) -> list[tuple[list[int], list[int]]]:
    """Contexts and what is scored after them; a window reads `width` tokens and predicts one more."""
    first = [(tokens[:1], tokens[1 : width + 1])] if len(tokens) > 1 else []
    step = max(1, width // 2)
    rest = range(width + 1, len(tokens), step)
    return first + [(tokens[max(0, begin + step - width - 1) : begin], tokens[begin : begin + step]) for begin in rest]
