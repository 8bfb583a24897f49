"""Whether two forms of one model answer alike: greedy tokens, divergence at each token, nats.

A form is asked for its greedy answer to a prompt, and for the distribution of the token at each
step along the answer of the first. Of a distribution the likeliest tokens are kept; the
rest count as one token more, so that a divergence is at most too small, never too large.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase

from secura.evaluation.causal_model import Model, called_model, in_evaluation_mode
from secura.tasks.prompting import end_tokens

SHOWN_TOKENS = 2048
"""Tokens of a distribution that are kept, the likeliest: all of a small vocabulary."""


TIE_NATS = 2e-3
"""Two tokens this near are as good as equally likely: the order of a sum decides between them."""


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """How likely the tokens at one place are."""

    tokens: Tensor
    """The likeliest tokens, shape (shown,)."""
    log_probs: Tensor
    """Their log-probabilities in nats, shape (shown,), float64."""


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What a form of a model answered to one prompt."""

    tokens: Sequence[int]
    """Its greedy answer, the end among them where it came to one."""
    distributions: Sequence[Distribution | None]
    """At each token along the answer that is compared with, as far as they agree; None where it is not known."""


Ask = Callable[[Sequence[int], Sequence[int] | None], Answered]
"""Answers a prompt, in tokens, along the path of another answer, or along its own where that is None."""


@dataclass(frozen=True, kw_only=True)
class PromptParity:
    """One prompt, answered by both."""

    prompt: int
    """Its place among the prompts."""
    reference: Sequence[int]
    """Tokens of the first."""
    export: Sequence[int]
    """Tokens of the second."""
    kl_nats: Sequence[float]
    """KL(first ‖ second) at each token along the first's answer, as far as it is known."""
    nats: tuple[float, float]
    """Mean nats per token of the first's answer under each; of the tokens whose KL is known."""
    gap_nats: float | None
    """Where they part: how much likelier the first finds its own token; None where they do not, or it is not known."""

    @property
    def differs_at(self) -> int | None:
        """Place of the first token that differs; None where all are the same."""
        if list(self.reference) == list(self.export):
            return None
        pairs = zip(self.reference, self.export, strict=False)
        shorter = min(len(self.reference), len(self.export))
        return next((at for at, (mine, theirs) in enumerate(pairs) if mine != theirs), shorter)


@dataclass(frozen=True, kw_only=True)
class Parity:
    """All prompts."""

    prompts: Sequence[PromptParity]
    """In the order asked."""

    @property
    def same(self) -> int:
        """How many were answered with the same tokens."""
        return sum(prompt.differs_at is None for prompt in self.prompts)

    @property
    def ties(self) -> int:
        """How many part where the first finds two tokens equally likely, within `TIE_NATS`."""
        return sum(prompt.gap_nats is not None and prompt.gap_nats <= TIE_NATS for prompt in self.prompts)

    @property
    def mean_kl(self) -> float:
        """Mean KL in nats, each token counting once."""
        return fmean(all_kl) if (all_kl := [kl for prompt in self.prompts for kl in prompt.kl_nats]) else 0.0

    @property
    def largest_kl(self) -> float:
        """KL in nats at the token where it is largest."""
        return max((kl for prompt in self.prompts for kl in prompt.kl_nats), default=0.0)

    @property
    def nats(self) -> tuple[float, float]:
        """Mean nats per token of the first's answers under each, each prompt counting once."""
        return fmean(prompt.nats[0] for prompt in self.prompts), fmean(prompt.nats[1] for prompt in self.prompts)


def compare_answers(
    prompts: Sequence[Sequence[int]],
    reference: Sequence[Answered],
    export: Ask,
    on_progress: Callable[[int], None] | None = None,
) -> Parity:
    """Ask the second form what the first has answered already.

    Args:
        prompts: tokens of each.
        reference: what the first answered to them.
        export: the second.
        on_progress: called with 1 after each prompt.
    """
    found = []
    for index, (prompt, mine) in enumerate(zip(prompts, reference, strict=True)):
        theirs = export(prompt, mine.tokens)
        both = zip(mine.tokens, mine.distributions, theirs.distributions, strict=False)
        known = [(token, first, second) for token, first, second in both if first is not None and second is not None]
        found.append(
            PromptParity(
                prompt=index,
                reference=list(mine.tokens),
                export=list(theirs.tokens),
                gap_nats=_gap(mine, theirs.tokens),
                kl_nats=[divergence(first, second) for _, first, second in known],
                nats=(
                    _mean_nats([(token, first) for token, first, _ in known]),
                    _mean_nats([(token, second) for token, _, second in known]),
                ),
            )
        )
        if on_progress is not None:
            on_progress(1)
    return Parity(prompts=found)


def divergence(first: Distribution, second: Distribution) -> float:
    """KL(first ‖ second) in nats over the tokens that both show and all others as one; never above the whole."""
    theirs = dict(zip(second.tokens.tolist(), second.log_probs.tolist(), strict=True))
    pairs = [
        (log_p, theirs[token])
        for token, log_p in zip(first.tokens.tolist(), first.log_probs.tolist(), strict=True)
        if token in theirs
    ]
    p, q = (torch.tensor([pair[side] for pair in pairs], dtype=torch.float64) for side in (0, 1))
    inside = (p.exp() * (p - q)).sum().item()
    p_rest, q_rest = (max(0.0, 1 - side.exp().sum().item()) for side in (p, q))
    # Below this, what is left over is the rounding of the sum.
    outside = p_rest * (torch.tensor(p_rest / q_rest).log().item()) if p_rest > 1e-6 and q_rest > 1e-6 else 0.0
    return max(0.0, inside + outside)


def _gap(mine: Answered, theirs: Sequence[int]) -> float | None:
    at = next((at for at, (a, b) in enumerate(zip(mine.tokens, theirs, strict=False)) if a != b), None)
    shown = None if at is None else mine.distributions[at]
    if at is None or shown is None:
        return None
    log_probs = dict(zip(shown.tokens.tolist(), shown.log_probs.tolist(), strict=True))
    if theirs[at] not in log_probs:
        return None
    return log_probs[mine.tokens[at]] - log_probs[theirs[at]]


def _mean_nats(steps: Sequence[tuple[int, Distribution]]) -> float:
    found = [
        -dict(zip(each.tokens.tolist(), each.log_probs.tolist(), strict=True)).get(token, each.log_probs.min().item())
        for token, each in steps
    ]
    return fmean(found) if found else 0.0


def ask_model(model: Model, *, ends: Sequence[int], max_tokens: int, shown: int = SHOWN_TOKENS) -> Ask:
    """Have a model of transformers answer, one prompt at a time.

    Args:
        model: with or without an adapter.
        ends: tokens that end an answer; see `end_ids`.
        max_tokens: where an answer is cut.
        shown: tokens of each distribution.
    """
    called: Any = called_model(model)
    settings = GenerationConfig(
        max_new_tokens=max_tokens,
        do_sample=False,
        eos_token_id=list(ends) or None,
        pad_token_id=(list(ends) or [0])[0],
        return_dict_in_generate=True,
        output_logits=True,
    )

    @torch.inference_mode()
    def ask(prompt: Sequence[int], path: Sequence[int] | None) -> Answered:
        with in_evaluation_mode(model):
            inputs = torch.tensor([list(prompt)], device=model.device)
            generated = called.generate(inputs, attention_mask=torch.ones_like(inputs), generation_config=settings)
            tokens = generated.sequences[0, len(prompt) :].tolist()
            if path is None or list(path) == tokens:
                logits = torch.cat(generated.logits)
            else:
                whole = torch.tensor([[*prompt, *path]], device=model.device)
                logits = called(input_ids=whole, use_cache=False).logits[0, len(prompt) - 1 : -1]
            log_probs = logits.double().log_softmax(-1)
        kept = log_probs.topk(min(shown, log_probs.shape[-1]), dim=-1)
        distributions = [
            Distribution(tokens=ids.cpu(), log_probs=values.cpu())
            for ids, values in zip(kept.indices, kept.values, strict=True)
        ]
        return Answered(tokens=tokens, distributions=distributions)

    return ask


def end_ids(model: Model, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end an answer: the tokenizer's, the model's, and what closes a turn of its chats."""
    own: Any = getattr(model.generation_config, "eos_token_id", None)
    closing = end_tokens(tokenizer)
    of_tokenizer: Any = tokenizer.eos_token_id
    found = [of_tokenizer, *(own if isinstance(own, list) else [own]), *(closing if len(closing) == 1 else [])]
    return sorted({int(token) for token in found if token is not None})
