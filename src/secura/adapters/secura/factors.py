"""The trained factors of one adapter on one layer, one small module for each kind of change.

They are modules, and not bare parameters, so that a parameter is called
`secura_change.default.inner`: TRL copies the adapter of a reference model by looking for
`.default.` in that name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

from secura.adapters.sharding import whole
from secura.numerics.change import ThinFactors, cabr_core, cur_factors, low_rank_factors
from secura.numerics.natural_scale import sign_step_size


class FrozenFactors(NamedTuple):
    """C and R, gathered from the pretrained weight."""

    columns: Tensor
    rows: Tensor


class ChangeFactors(nn.Module, ABC):
    """What a layer needs to know of a change: its thin factors, and how it is folded."""

    bias: nn.Parameter | None
    shared_right: ClassVar[bool]
    """Whether the right factor is R, whatever has been trained and folded."""

    @abstractmethod
    def thin_factors(
        self, frozen: FrozenFactors | None, folded: Sequence[Mapping[str, Tensor]], scale: float
    ) -> ThinFactors:
        """D = left right, with the folds that count towards it."""

    @abstractmethod
    def folded_factors(self, frozen: FrozenFactors | None, fold: Mapping[str, Tensor], scale: float) -> ThinFactors:
        """The change that one fold holds, without what is under training now."""

    @abstractmethod
    def starting_factors(self) -> tuple[nn.Parameter | None, nn.Parameter]:
        """The factor a start fills (None where there is none), and the one that begins at 0."""

    @abstractmethod
    def sign_step_size(self, frozen: FrozenFactors | None) -> float:
        """The rms by which D moves, at scale 1, where each entry of the factor that begins at 0 moves by ±1."""

    @abstractmethod
    def current_fold(self) -> dict[str, Tensor]:
        """What a fold would store now: detached float32 copies by name."""

    def reset_after_fold_(self) -> None:
        """Set the factor that begins at 0 to 0 again; the other keeps what it has learned."""
        with torch.no_grad():
            self.starting_factors()[1].zero_()


class CabrFactors(ChangeFactors):
    """A (r, k) and B (k, r) of D = C A B R."""

    shared_right = True

    def __init__(self, r: int, inner_r: int, *, bias: int | None, like: Tensor) -> None:
        super().__init__()
        self.inner = _empty_parameter(r, inner_r, like=like)
        self.outer = _empty_parameter(inner_r, r, like=like)
        self.bias = None if bias is None else _empty_parameter(bias, like=like)

    @override
    def thin_factors(
        self, frozen: FrozenFactors | None, folded: Sequence[Mapping[str, Tensor]], scale: float
    ) -> ThinFactors:
        return _cur_thin_factors(frozen, cabr_core(self.inner, self.outer), folded, scale)

    @override
    def folded_factors(self, frozen: FrozenFactors | None, fold: Mapping[str, Tensor], scale: float) -> ThinFactors:
        return _cur_folded_factors(frozen, fold, scale)

    @override
    def starting_factors(self) -> tuple[nn.Parameter | None, nn.Parameter]:
        return self.inner, self.outer

    @override
    def sign_step_size(self, frozen: FrozenFactors | None) -> float:
        assert frozen is not None, "a CUR change needs C and R"
        inner = self.inner.detach().float()
        return sign_step_size(frozen.columns.float() @ inner, frozen.rows)

    @override
    def current_fold(self) -> dict[str, Tensor]:
        return {"core": cabr_core(whole(self.inner), whole(self.outer)).detach().float()}


class CurFactors(ChangeFactors):
    """U (r, r) of D = C U R."""

    shared_right = True

    def __init__(self, r: int, *, bias: int | None, like: Tensor) -> None:
        super().__init__()
        self.core = _empty_parameter(r, r, like=like)
        self.bias = None if bias is None else _empty_parameter(bias, like=like)

    @override
    def thin_factors(
        self, frozen: FrozenFactors | None, folded: Sequence[Mapping[str, Tensor]], scale: float
    ) -> ThinFactors:
        return _cur_thin_factors(frozen, self.core, folded, scale)

    @override
    def folded_factors(self, frozen: FrozenFactors | None, fold: Mapping[str, Tensor], scale: float) -> ThinFactors:
        return _cur_folded_factors(frozen, fold, scale)

    @override
    def starting_factors(self) -> tuple[nn.Parameter | None, nn.Parameter]:
        return None, self.core

    @override
    def sign_step_size(self, frozen: FrozenFactors | None) -> float:
        assert frozen is not None, "a CUR change needs C and R"
        return sign_step_size(frozen.columns, frozen.rows)

    @override
    def current_fold(self) -> dict[str, Tensor]:
        return {"core": whole(self.core.detach()).float().clone()}


class LowRankFactors(ChangeFactors):
    """B (out, r), here `up`, and A (r, in), here `down`, of D = B A."""

    shared_right = False

    def __init__(self, r: int, in_features: int, out_features: int, *, bias: int | None, like: Tensor) -> None:
        super().__init__()
        self.down = _empty_parameter(r, in_features, like=like)
        self.up = _empty_parameter(out_features, r, like=like)
        self.bias = None if bias is None else _empty_parameter(bias, like=like)

    @override
    def thin_factors(
        self, frozen: FrozenFactors | None, folded: Sequence[Mapping[str, Tensor]], scale: float
    ) -> ThinFactors:
        del frozen
        return low_rank_factors(self.up, self.down, [(fold["up"], fold["down"]) for fold in folded], scale)

    @override
    def folded_factors(self, frozen: FrozenFactors | None, fold: Mapping[str, Tensor], scale: float) -> ThinFactors:
        del frozen
        return low_rank_factors(fold["up"], fold["down"], scale=scale)

    @override
    def starting_factors(self) -> tuple[nn.Parameter | None, nn.Parameter]:
        return self.down, self.up

    @override
    def sign_step_size(self, frozen: FrozenFactors | None) -> float:
        del frozen
        return sign_step_size(None, self.down)

    @override
    def current_fold(self) -> dict[str, Tensor]:
        return {name: whole(factor.detach()).float().clone() for name, factor in (("up", self.up), ("down", self.down))}


def _cur_thin_factors(
    frozen: FrozenFactors | None, core: Tensor, folded: Sequence[Mapping[str, Tensor]], scale: float
) -> ThinFactors:
    assert frozen is not None, "a CUR change needs C and R"
    # Newest first, onto the core under training: a fold then leaves the sum as it was to the bit,
    # whether it opens an entry of its own or is added to the newest one.
    total = core
    for fold in reversed(folded):
        total = fold["core"] + total
    total = total.to(core.dtype)
    return cur_factors(frozen.columns.to(core.dtype), total, frozen.rows.to(core.dtype), scale)


def _cur_folded_factors(frozen: FrozenFactors | None, fold: Mapping[str, Tensor], scale: float) -> ThinFactors:
    assert frozen is not None, "a CUR change needs C and R"
    core = fold["core"]
    return cur_factors(frozen.columns.to(core.dtype), core, frozen.rows.to(core.dtype), scale)


def _empty_parameter(*shape: int, like: Tensor) -> nn.Parameter:
    return nn.Parameter(torch.empty(*shape, dtype=like.dtype, device=like.device))
