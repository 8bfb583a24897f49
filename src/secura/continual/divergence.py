"""How far one model's next-token distribution lies from another's."""

import torch
from torch import Tensor


def mean_kl(reference_logits: Tensor, logits: Tensor, counted: Tensor, *, temperature: float = 1.0) -> Tensor:
    """KL(reference ‖ model) in nats, averaged over the counted positions, times temperature².

    The mean is that of one forward pass. Where a step has several, of sequences of different
    lengths, their mean of means is near the mean over all positions, and not equal to it.

    Args:
        reference_logits: of the model to stay near, shape (batch, tokens, vocabulary); no
            gradient flows to it.
        logits: of the model under training, the same shape.
        counted: which positions count, shape (batch, tokens), bool.
        temperature: both distributions are softened by it; the square keeps the gradient's size.
    """
    wanted = (reference_logits[counted].detach().float() / temperature).log_softmax(-1)
    given = (logits[counted].float() / temperature).log_softmax(-1)
    if not len(given):
        return given.sum()
    return temperature**2 * torch.nn.functional.kl_div(given, wanted, reduction="batchmean", log_target=True)
