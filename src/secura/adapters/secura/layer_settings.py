"""The three choices of one adapter on one layer, as the layer uses them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from secura.adapters.secura.config import SecuraConfig
from secura.numerics.row_bound import RowBounded
from secura.numerics.s_magnorm import Bounded, Paper, WeightNorm


@dataclass(frozen=True)
class LayerSettings:
    """The three choices of one adapter on one layer."""

    norm: WeightNorm | RowBounded | Literal["none", "released"]
    moving: bool
    undamped: bool
    scale: float
    """The layer's own, at which a learning rate means the same as on others; 1 is as published."""
    alpha_over_r: float = 1.0
    """What LoRA's alpha adds to that, as a factor."""

    @property
    def multiplier(self) -> float:
        """What the product of the factors is multiplied by to give D."""
        return self.scale * self.alpha_over_r

    @property
    def weight_norm(self) -> WeightNorm | None:
        """The norm that acts on each weight by itself, if there is one."""
        return None if isinstance(self.norm, str | RowBounded) else self.norm

    @property
    def row_bound(self) -> RowBounded | None:
        """The bound on rows as a whole, if there is one; it acts on the thin factors."""
        return self.norm if isinstance(self.norm, RowBounded) else None

    @property
    def folds_move_the_reference(self) -> bool:
        """Whether folds live in W_ref and no longer in D. Without a norm it makes no difference."""
        return self.moving and self.norm != "none"

    @property
    def folds_add_up(self) -> bool:
        """Whether the model depends on the sum of the folds only, not on their order."""
        return not self.folds_move_the_reference or self.undamped


def norm_of(config: SecuraConfig) -> WeightNorm | RowBounded | Literal["none", "released"]:
    """The norm a config names, as a function of weights or of factors where it is one."""
    if config.norm == "row_bounded":
        return RowBounded(tau=config.tau)
    if config.norm == "bounded":
        return Bounded(tau=config.tau, floor=config.floor)
    if config.norm == "paper":
        return Paper()
    return config.norm
