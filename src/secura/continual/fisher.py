"""The diagonal Fisher information, estimated from a task's own examples: how much each value matters to it.

Two estimates share the name, and are kept apart here:

    per example    F_i = 1/N Σ_n (∂ log p(y_n | x_n) / ∂θ_i)²          Kirkpatrick et al.
    batch mean     F_i = 1/K Σ_k (∂ 1/|B_k| Σ_{n in B_k} log p(y_n | x_n) / ∂θ_i)²

The second is smaller by about the batch size where gradients of different examples are
independent, so a penalty's strength cannot be carried over from one to the other. log p is
summed over the tokens of the answer. Both take the data's own answers for y, which is called
the empirical Fisher; the true one would draw y from the model.
"""

import random
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from secura.continual.protected_values import ProtectedValues
from secura.continual.strategy import Collate

Estimate = Literal["per_example", "batch_mean"]
_IGNORED = -100


def diagonal_fisher(
    model: nn.Module,
    rows: Sequence[Any],
    collate: Collate,
    values: ProtectedValues,
    *,
    estimate: Estimate,
    examples: int,
    batch_size: int,
    seed: int,
) -> dict[str, Tensor]:
    """Estimate the diagonal Fisher from a sample of a task's rows.

    Args:
        model: the model as it is after the task; its gradients are overwritten and cleared.
        rows: what the task was trained on.
        collate: makes a batch of rows, with labels.
        values: whose Fisher.
        estimate: `per_example` or `batch_mean`, as above.
        examples: how many rows to sample at most, by `seed`.
        batch_size: rows a gradient for `batch_mean`; `per_example` takes one at a time.

    Returns:
        One tensor for each value, float32, of its shape; no entry is negative.

    Raises:
        ValueError: if there are no rows.
    """
    if not rows:
        raise ValueError("a Fisher estimate needs at least one example.")
    drawn = random.Random(f"{seed}:fisher").sample(list(rows), min(examples, len(rows)))
    size = 1 if estimate == "per_example" else batch_size
    batches = [drawn[start : start + size] for start in range(0, len(drawn), size)]
    totals: dict[str, Tensor] = {}
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    try:
        with values.recording(model):
            for batch in batches:
                model.zero_grad(set_to_none=True)
                (_log_likelihood(model, collate(batch), device) / len(batch)).backward()
                for name, gradient in values.gradients(model).items():
                    squared = gradient.float().square()
                    totals[name] = totals[name] + squared if name in totals else squared
    finally:
        model.zero_grad(set_to_none=True)
        model.train(was_training)
    return {name: total / len(batches) for name, total in totals.items()}


def _log_likelihood(model: nn.Module, batch: dict[str, Any], device: torch.device) -> Tensor:
    """log p of the answers of a batch, in nats, summed over tokens and rows."""
    inputs = {name: value.to(device) for name, value in batch.items() if isinstance(value, Tensor)}
    labels = inputs.pop("labels")
    logits = model(**inputs).logits[:, :-1].float()
    wanted = labels[:, 1:]
    answered = wanted != _IGNORED
    picked = logits.log_softmax(-1).gather(-1, wanted.clamp(min=0)[..., None])[..., 0]
    return (picked * answered).sum()
