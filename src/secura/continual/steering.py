"""The outer loop of a budget: how much divergence is allowed, steered by what the model has lost so far.

The inner loop holds the divergence from the base, k, near kappa. What k costs in answers differs from model to model
and from task to task, so kappa is moved by the share that is lost on the steer questions:

    log kappa += 1/2 clip(log((1 - keep) / (q + 1/(2n))), -0.7, 0.7)

q is the share lost of the n steer questions that the base answers right. 1/(2n) stands for half a question, so that
nothing lost is no infinite leave to lose. Half of the step is taken, since q is measured with noise: a look moves
kappa by a factor of at most e^0.35 = 1.42.

Source:
    secura's own; multipliers moved towards a constraint as in primal-dual continual learning, arXiv:2310.00154.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

_GAIN = 0.5
_LARGEST = 0.7


def steps_between_looks(steps: int) -> int:
    """How many steps lie between two looks at the steer questions: a twentieth of all, from 25."""
    return max(25, math.ceil(steps / 20))


def kappa_factor(keep: float, lost: int, items: int) -> float:
    """What kappa is multiplied by after a look.

    Args:
        keep: the share to be kept, from 0 and below 1.
        lost: steer questions right before and wrong now.
        items: n, how many steer questions the base answers right, from 1.

    Raises:
        ValueError: if one of them is out of its range.
    """
    if not 0 <= keep < 1:
        raise ValueError(f"keep is {keep}; it must be at least 0 and below 1.")
    if not 0 <= lost <= items or items < 1:
        raise ValueError(f"lost is {lost} of {items} steer questions; it must be from 0 to all of them, of 1 or more.")
    wanted = math.log((1 - keep) / (lost / items + 1 / (2 * items)))
    return math.exp(_GAIN * min(max(wanted, -_LARGEST), _LARGEST))


@dataclass(kw_only=True)
class Steering:
    """When to look, and how far kappa has been moved. Its state is plain numbers, to be stored and gone on with."""

    keep: float
    """The share to be kept."""
    steps: int
    """Steps of the whole training."""
    factor: float = 1.0
    """What the first kappa is multiplied by so far."""
    looks: int = 0
    """How often it has looked."""
    lost_share: float | None = None
    """q at the last look."""

    def is_due(self, step: int) -> bool:
        """Whether to look after a step, counted from 1; never after the last, which nothing follows."""
        return 0 < step < self.steps and step % steps_between_looks(self.steps) == 0

    def look(self, lost: int, items: int) -> float:
        """Take in what was found; returns what kappa is to be multiplied by now."""
        moved = kappa_factor(self.keep, lost, items)
        self.factor *= moved
        self.looks += 1
        self.lost_share = lost / items
        return moved

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint stores."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what a checkpoint stored.

        Raises:
            ValueError: if it is of a training with another budget or of other length.
        """
        if (state["keep"], state["steps"]) != (self.keep, self.steps):
            raise ValueError(
                f"the stored steering is of keep {state['keep']} over {state['steps']} steps, not of {self.keep} over "
                f"{self.steps}."
            )
        self.factor, self.looks, self.lost_share = state["factor"], state["looks"], state["lost_share"]
