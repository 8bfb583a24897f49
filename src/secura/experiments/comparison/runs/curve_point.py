"""What a model between the base and the end of a run has learned and forgotten."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """One model between the base and the end of a run."""

    step: int
    """Optimizer steps taken; 0 is the base."""
    dial: float
    """What the learned change is scaled by; 0 is the base."""
    task_nats: float | None
    """Nats per answer token on the held-out rows of what is learned."""
    text_nats: Mapping[str, float]
    """Nats per token on each text that is not trained on."""
    right: Sequence[int] | None = None
    """Places of the questions answered right, among all that the curve asks; of the base's at most, after training.
    None where none are asked."""
