"""PEFT's forgetting number: by how much a fixed text costs the model more after training.

    forgetting = L(after) − L(before)        L = mean cross-entropy in nats over all tokens scored

As PEFT's method comparison has it (`method_comparison/MetaMathQA`, `run.py` and `data.py`):

- Text: the first 100 rows of `HuggingFaceFW/finewiki`, split train, their field `text` as it is.
- Tokens: each row by itself, with the special tokens the tokenizer adds, cut after 768; there
  is no chunking, what lies beyond is not scored.
- Batches of 4, padded on the left, the model in evaluation mode.
- Each token is scored given those before it in its row, so the first of a row is not.
- Mean over the tokens of all rows together: a long row weighs more than a short one.
- Before: the base model without an adapter. After: at the end of training.

That is how it is since July 2026 (pull request 3419 of huggingface/peft). Until then each
logit was held against the token it had just read instead of the next one, and "before" was
measured with the fresh adapter in place; until January 2026 (pull request 2986) left padding
was taken for right padding. Forgetting numbers published before cannot be compared with these.
Of the code after the change we know the description of that pull request, the code itself
up to it.

Two differences remain, both of rounding where positions are relative as in Llama. Logits are
made float32 before the cross-entropy here; PEFT's are left in the model's dtype, bfloat16 by
default, which rounds every token's loss to 8 bits. And padded rows begin at position 0 here;
for a model with learned positions, such as GPT-2, PEFT's number depends on what shares a batch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from secura.evaluation.causal_model import Model, context_length, in_evaluation_mode
from secura.evaluation.log_likelihoods import sum_log_likelihoods

PEFT_ROWS = 100
"""How many rows of text PEFT takes."""
PEFT_MAX_TOKENS = 768
"""After how many tokens PEFT cuts each of them."""


@dataclass(frozen=True, kw_only=True)
class ForgettingLoss:
    """What a fixed text cost before and after training."""

    before: float
    """Nats per token, base model."""
    after: float
    """Nats per token, trained model."""

    @property
    def forgetting(self) -> float:
        """PEFT's number, after − before; below 0 where training made the text cheaper."""
        return self.after - self.before


def mean_token_cross_entropy(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    max_tokens: int = PEFT_MAX_TOKENS,
    batch_size: int = 4,
) -> float:
    """Mean nats per token of `texts`, as PEFT's method comparison measures it.

    Args:
        model: base, adapted or merged; its mode is evaluation meanwhile and then what it was.
        tokenizer: its tokenizer; special tokens are added as it adds them.
        texts: PEFT takes `PEFT_ROWS` rows of finewiki. Any other text gives a number of its
            own, to be compared only with those of the same text and tokenizer.
        max_tokens: after how many tokens each text is cut; never more than the model reads at once.
        batch_size: texts at a time; the number is the same for any, up to rounding.

    Raises:
        ValueError: if no text has two tokens, so that nothing can be scored.
    """
    room = min(max_tokens, context_length(model, tokenizer) or max_tokens)
    rows = [list(tokenizer(text, truncation=True, max_length=room)["input_ids"]) for text in texts]
    pairs = [(row[:1], row[1:]) for row in rows if len(row) > 1]
    if not pairs:
        raise ValueError(f"none of {len(texts)} texts has two tokens, so no token follows another to be scored.")
    with in_evaluation_mode(model):
        likelihoods = sum_log_likelihoods(model, tokenizer, pairs, batch_size=batch_size)
    return -math.fsum(likelihoods) / sum(len(tokens) for _, tokens in pairs)
