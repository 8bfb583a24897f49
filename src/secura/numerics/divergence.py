"""How far one next-token distribution lies from another, position by position, in nats.

    KL(teacher ‖ model) = Σ_v q_v (log q_v − log p_v)

The teacher q is given by its logits or, where it was asked long ago, by its k likeliest tokens and the mass of all
others as one more outcome. Merging outcomes never raises a KL divergence, so that form is a lower bound of the whole
one, and is 0 where the whole one is.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def divergence(
    teacher_logits: Float[Tensor, "positions vocabulary"],
    logits: Float[Tensor, "positions vocabulary"],
    *,
    temperature: float = 1.0,
    left_out: Int[Tensor, " positions"] | None = None,
) -> Float[Tensor, " positions"]:
    """KL(teacher ‖ model) of each position, times temperature².

    Args:
        teacher_logits: of the model to stay near; no gradient flows to them.
        logits: of the model under training.
        temperature: both distributions are softened by it; the square keeps the gradient's size.
        left_out: one token a position that neither distribution counts, both normalised again without it.
    """
    wanted, given = _softened(teacher_logits.detach(), temperature), _softened(logits, temperature)
    if left_out is None:
        wanted, given = wanted.log_softmax(-1), given.log_softmax(-1)
        return temperature**2 * (wanted.exp() * (wanted - given)).sum(-1)
    gold = left_out.long()[:, None]
    wanted, given = (each.scatter(-1, gold, -torch.inf).log_softmax(-1) for each in (wanted, given))
    weights = wanted.exp()
    # −∞ − −∞ is no number, and nothing here.
    difference = wanted.scatter(-1, gold, 0.0) - given.scatter(-1, gold, 0.0)
    return temperature**2 * (weights * difference).sum(-1)


def divergence_from_likeliest(
    tokens: Int[Tensor, "positions k"],
    log_probabilities: Float[Tensor, "positions k"],
    log_rest: Float[Tensor, " positions"],
    logits: Float[Tensor, "positions vocabulary"],
) -> Float[Tensor, " positions"]:
    """KL(teacher ‖ model) of each position, over k tokens and all others together.

    The model's mass of all others is the log-sum-exp of their logits, and not 1 minus that of the k, which would be
    rounding noise where it is small.

    Args:
        tokens: the teacher's k likeliest tokens, each once; fewer than the vocabulary has.
        log_probabilities: of these, by the teacher; normalised together with `log_rest`, so that what 16 bits
            have rounded away is no divergence.
        log_rest: log of the teacher's mass of all other tokens.
        logits: of the model under training.

    Raises:
        ValueError: if no token is left for the rest.
    """
    if tokens.shape[-1] >= logits.shape[-1]:
        raise ValueError(f"{tokens.shape[-1]} likeliest tokens of {logits.shape[-1]} leave none for the rest.")
    given = _softened(logits, 1.0)
    chosen = given.gather(-1, tokens.long())
    rest = given.scatter(-1, tokens.long(), -torch.inf).logsumexp(-1, keepdim=True)
    given_outcomes = torch.cat([chosen, rest], dim=-1).log_softmax(-1)
    kept = torch.cat([log_probabilities, log_rest[:, None].to(log_probabilities.dtype)], dim=-1)
    wanted = kept.to(given.dtype).log_softmax(-1)
    return (wanted.exp() * (wanted - given_outcomes)).sum(-1)


def likeliest(
    logits: Float[Tensor, "positions vocabulary"], count: int
) -> tuple[Int[Tensor, "positions k"], Float[Tensor, "positions k"], Float[Tensor, " positions"]]:
    """The `count` likeliest tokens of each position, their log-probabilities, and the log of the mass of all others.

    Raises:
        ValueError: if no token is left for the rest.
    """
    if not 1 <= count < logits.shape[-1]:
        raise ValueError(f"count is {count}, but must be from 1 to {logits.shape[-1] - 1}: the rest is an outcome too.")
    wide = _softened(logits, 1.0)
    chosen, tokens = wide.topk(count, dim=-1)
    rest = wide.scatter(-1, tokens, -torch.inf).logsumexp(-1, keepdim=True)
    outcomes = torch.cat([chosen, rest], dim=-1).log_softmax(-1)
    return tokens, outcomes[:, :-1], outcomes[:, -1]


def agreement(logits: Float[Tensor, "positions vocabulary"]) -> Float[Tensor, " positions"]:
    """Σ_v p_v², the probability that two draws of the next token are the same one."""
    return _softened(logits, 1.0).softmax(-1).square().sum(-1)


def log_probabilities_of(
    tokens: Int[Tensor, "positions wanted"], logits: Float[Tensor, "positions vocabulary"]
) -> Float[Tensor, "positions wanted"]:
    """log p of some tokens at each position, in float32 or wider."""
    wide = _softened(logits, 1.0)
    return wide.gather(-1, tokens.long()) - wide.logsumexp(-1, keepdim=True)


def _softened(logits: Tensor, temperature: float) -> Tensor:
    """In float32 or wider, in which alone a sum over a vocabulary means something."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return wide if temperature == 1.0 else wide / temperature
