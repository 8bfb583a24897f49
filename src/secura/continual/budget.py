"""How hard training is held to the base: a strength that follows a budget of divergence.

    k̂ ← 0.9 k̂ + 0.1 k
    λ ← clip(λ (1 + 0.1 clip(k̂ / κ − 1, ±0.2)), 10⁻³, 10),  from 1 on

k is the divergence that a step measured and κ what is allowed, both in nats a token. λ moves by 2 % a step at most,
so it hardly answers to the noise of a few texts, and can still grow tenfold within 120 steps. It ends at 10: a gradient
that is shortened to a length, and Adam's, take their direction alone from the loss, of which the task has a tenth then.
What the steps of a high rate move by chance no larger λ takes back, and an unbounded one grew until training diverged.

Source:
    the adaptive penalty of Ziegler et al., arXiv:1909.08593, section 2.2, with a moving average; primal-dual learning
    under a constraint, Elenter et al., arXiv:2310.00154.
"""

import math

KEPT_OF_THE_MEAN = 0.9
LARGEST_SURPRISE = 0.2
GAIN = 0.1
LEAST, MOST = 1e-3, 10.0


class KLBudget:
    """λ, and all that moves it."""

    def __init__(self, *, nats: float) -> None:
        """Start at λ = 1, with nothing measured.

        Args:
            nats: κ, what is allowed, in nats a token.

        Raises:
            ValueError: if it is not above 0.
        """
        self.nats = 0.0
        self.set_nats(nats)
        self.strength = 1.0
        self.mean: float | None = None

    def set_nats(self, nats: float) -> None:
        """Allow more or less from now on.

        Raises:
            ValueError: if it is not above 0.
        """
        if not 0 < nats < math.inf:
            raise ValueError(f"budget_nats is {nats}, but must be above 0: nats a token that the model may move.")
        self.nats = nats

    def observe(self, nats: float) -> None:
        """Take in the divergence of a step; one that is no number is left to whatever ends the run for it."""
        if not math.isfinite(nats):
            return
        before = nats if self.mean is None else self.mean
        self.mean = KEPT_OF_THE_MEAN * before + (1 - KEPT_OF_THE_MEAN) * nats
        surprise = max(-LARGEST_SURPRISE, min(LARGEST_SURPRISE, self.mean / self.nats - 1))
        self.strength = max(LEAST, min(MOST, self.strength * (1 + GAIN * surprise)))

    def state(self) -> dict[str, float | None]:
        """All that a resumed run needs, as JSON, which keeps every bit of a float."""
        return {"nats": self.nats, "strength": self.strength, "mean": self.mean}

    def load_state(self, state: dict[str, float | None]) -> None:
        """Take up what `state` has given."""
        nats, strength, self.mean = state["nats"], state["strength"], state["mean"]
        assert nats is not None
        assert strength is not None
        self.set_nats(nats)
        self.strength = strength
