"""How far one model's next-token distributions lie from another's, on the same batch."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from secura.evaluation.hidden_states import HiddenStates
from secura.numerics.divergence import divergence


def mean_divergence(
    teacher: HiddenStates,
    model: HiddenStates,
    counted: Tensor,
    *,
    temperature: float = 1.0,
    left_out: Tensor | None = None,
    as_teacher: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Tensor:
    """KL(teacher ‖ model) in nats, averaged over the counted positions, times temperature².

    The mean is that of one forward pass. Where a step has several, of sequences of different
    lengths, their mean of means is near the mean over all positions, and not equal to it.

    Args:
        teacher: of the model to stay near; no gradient flows to it.
        model: of the model under training.
        counted: which positions count, shape (batch, tokens), bool.
        temperature: both distributions are softened by it; the square keeps the gradient's size.
        left_out: for each counted position, a token that neither distribution counts.
        as_teacher: makes the head the teacher's, where training changes the head.
    """

    def measure(logits: Tensor, states: Tensor, *gold: Tensor) -> Tensor:
        with torch.no_grad(), as_teacher() if model.head_is_trained else nullcontext():
            wanted = teacher.to_logits(states)
        return divergence(wanted, logits, temperature=temperature, left_out=gold[0] if gold else None)

    known = [teacher.states[counted].detach(), *([] if left_out is None else [left_out])]
    found = model.measured(measure, counted, *known)
    return found.mean() if len(found) else found.sum()
