"""How likely a model finds an answer, token by token: where an answer that flipped parts from the old one."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from secura.evaluation.causal_model import Model, accepted_inputs, called_model, context_length, in_evaluation_mode


@torch.inference_mode()
def token_log_likelihoods(
    model: Model, tokenizer: PreTrainedTokenizerBase, context: Sequence[int], tokens: Sequence[int]
) -> list[float | None]:
    """log p(token | context and the tokens before it) in nats, for each of `tokens`.

    One row alone, without padding: this is for a few answers that a person will look at.

    Returns:
        One number a token; None for a first token that nothing comes before, and for tokens
        beyond the model's context.
    """
    row = [*context, *tokens][: context_length(model, tokenizer)]
    scored = row[len(context) :]
    if len(row) < 2 or not scored:
        return [None] * len(tokens)
    keep = min(len(scored) + 1, len(row))
    inputs: dict[str, Any] = {"input_ids": torch.tensor([row], device=model.device), "use_cache": False}
    if "logits_to_keep" in accepted_inputs(model):  # spares the logits of the prompt
        inputs["logits_to_keep"] = keep
    with in_evaluation_mode(model):
        logits = called_model(model)(**inputs).logits[0, -keep:]
    # The logits at a token are about the one after it; those at the last one are about nothing here.
    predicted = logits[:-1].log_softmax(-1, dtype=torch.float32)
    wanted = torch.tensor(scored[-len(predicted) :], device=predicted.device)
    found = predicted.gather(1, wanted[:, None])[:, 0].tolist()
    nothing_before = [None] * (len(scored) - len(found))
    return [*nothing_before, *found, *[None] * (len(tokens) - len(scored))]
