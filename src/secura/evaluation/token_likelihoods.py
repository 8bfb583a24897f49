"""How likely a model finds an answer, token by token: where an answer that flipped parts from the old one."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerBase

from secura.evaluation.causal_model import Model, called_model, context_length, in_evaluation_mode
from secura.evaluation.hidden_states import hidden_states
from secura.numerics.divergence import log_probabilities_of


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
    wanted = torch.tensor(scored[-(len(row) - 1) :], device=model.device)
    inputs = {"input_ids": torch.tensor([row], device=model.device)}
    with in_evaluation_mode(model):
        read = hidden_states(called_model(model), inputs, keep=len(wanted) + 1)
        # What stands at a token is about the one after it; at the last one it is about nothing here.
        places = torch.arange(len(wanted), device=read.states.device)
        found = read.measured(
            lambda logits, token: log_probabilities_of(token[:, None], logits)[:, 0],
            (torch.zeros_like(places), places),
            wanted.to(read.states.device),
        ).tolist()
    nothing_before = [None] * (len(scored) - len(found))
    return [*nothing_before, *found, *[None] * (len(tokens) - len(scored))]
