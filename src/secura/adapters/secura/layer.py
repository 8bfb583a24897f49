"""A linear layer under SECURA: joins a change, a norm and a reference, and keeps PEFT's contract.

The pretrained weight is never written, except by `merge`, which keeps the original tensor
and puts it back. C and R are gathered from it in each forward pass; only their indices are
held. A 16-bit layer adds x (W' - W0)ᵀ to its own output, since W' itself would round small
changes away; a 32-bit layer multiplies by W' once.

A layer calls its base layer too where that does more than its product, such as run a hook.

Where FSDP2 divides the weights, a layer finds them whole in its forward pass. Outside of it,
as for the selection, a weight is gathered for as long as it is needed, one layer at a time.
Weights that accelerate offloads are brought in wherever they are read.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTunerLayer, _get_in_out_features, check_adapters_to_merge, onload_layer
from peft.utils import resolve_quantization_backend
from peft.utils.integrations import gather_params_ctx
from peft.utils.other import get_pattern_key
from torch import Tensor, nn
from torch.nn.modules.module import (
    _global_backward_hooks,
    _global_backward_pre_hooks,
    _global_forward_hooks,
    _global_forward_pre_hooks,
)
from transformers.pytorch_utils import Conv1D

from secura.adapters.fingerprint import WeightDigests, fingerprint_from_text, is_of_quantized
from secura.adapters.offloading import brought_in, has_accelerate_hook, is_offloaded
from secura.adapters.secura.config import DEFAULT_RANK, DEFAULT_WIDENING, SecuraConfig
from secura.adapters.secura.factors import (
    CabrFactors,
    ChangeFactors,
    CurFactors,
    FrozenFactors,
    LowRankFactors,
)
from secura.adapters.secura.layer_settings import LayerSettings, norm_of
from secura.adapters.secura.ledger import FoldLedger
from secura.adapters.secura.sealing import can_be_sealed, tensor_digest, was_changed
from secura.adapters.secura.starting_state import RANDOM_START_SHARE, empty_folds, selected_indices, started_factor
from secura.adapters.sharding import is_sharded, whole
from secura.errors import ConfigError, FoldError, InputError, MergeError
from secura.kernels.fused_norm import fused_norm
from secura.numerics.change import ThinFactors, output_change, sum_of_changes, weight_change
from secura.numerics.constrained_linear import constrained_linear, constrained_weight, without_autocast
from secura.numerics.finite import all_finite
from secura.numerics.natural_scale import natural_scale, natural_size
from secura.numerics.reference import kept_reference, undamped_reference
from secura.numerics.row_bound import RowBounded, RowReference, moved_row_reference, row_reference
from secura.numerics.s_magnorm import WeightNorm, released_output

_PLAIN_FORWARDS = (nn.Linear.forward, Conv1D.forward)


class SecuraLayer(BaseTunerLayer):
    """What a base layer carries for each adapter, by adapter name."""

    training: bool  # nn.Module's, in the subclass

    adapter_layer_names = ("secura_change",)
    other_param_names = (
        "secura_settings",
        "secura_columns",
        "secura_rows",
        "secura_folds",
        "secura_reference",
        "secura_folded",
        "secura_dropout",
        "whole_base",
    )

    def __init__(self, base_layer: nn.Module, digests: WeightDigests | None = None, **kwargs: Any) -> None:
        self.base_layer = base_layer
        self.secura_change = nn.ModuleDict()
        self.secura_settings: dict[str, LayerSettings] = {}
        # Not persistent: FSDP2's loader cannot shard a buffer of a state dict. The model class
        # writes the indices into the checkpoint and reads them from it.
        self.secura_columns: Any = BufferDict(persistent=False)
        self.secura_rows: Any = BufferDict(persistent=False)
        self.secura_folds = nn.ModuleDict()
        self.secura_reference: Any = BufferDict(persistent=False)
        self.secura_folded: Any = BufferDict(persistent=False)  # the folds of `low_rank` that are in D, multiplied out
        self.secura_dropout = nn.ModuleDict()
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self.cast_input_dtype_enabled = True
        self._row_references: dict[str, tuple[RowReference, Any]] = {}
        self._measures: dict[str, tuple[Tensor | None, Tensor | None, Any]] = {}
        self._stale_references: set[str] = set()
        self.sealed_tensors: dict[str, dict[str, str]] = {}
        """By adapter, what its config says its tensors are, until they have been looked at."""
        self.whole_base: dict[str, Tensor] = {}
        """By adapter, the fingerprint of a sample of the whole base when it was put on; none where it was not whole."""
        self._unselected: set[str] = set()  # made on the meta device: the indices are still to come
        self._before_merge: _BeforeMerge | None = None
        self._frozen_of_quantized: dict[str, FrozenFactors] = {}
        self.quantization_backend = resolve_quantization_backend(self.get_base_layer(), **kwargs)
        self._digests = self._new_digests() if digests is None else digests
        self._digested = self._state_of_weight()
        if hasattr(self._linear, "support_avx512bf16_for_cpu"):
            # bitsandbytes would repack a 4-bit weight at its first inference on a CPU, and
            # dequantizing what it has repacked gives noise.
            self._linear.support_avx512bf16_for_cpu = False
        in_features, out_features = _get_in_out_features(self.get_base_layer())
        assert in_features is not None
        assert out_features is not None
        self.in_features: int = in_features
        self.out_features: int = out_features

    @property
    def _linear(self) -> Any:
        """The innermost base layer. Untyped: nn.Module says nothing of `weight` and `bias`."""
        return self.get_base_layer()

    # ------------------------------------------------------------------ building

    def update_layer(self, adapter_name: str, config: SecuraConfig, layer_name: str) -> None:
        """Add an adapter, or replace the one of that name."""
        base_layer = self._linear
        with brought_in([base_layer]), gather_params_ctx(base_layer.parameters()):
            weight = self._pretrained_weight()
            r, inner_r = self._ranks(config, layer_name)
            saved = (config.saved or {}).get("layers", {}).get(layer_name, {})
            if not (saved or weight.is_meta or all_finite(weight)):
                raise InputError(
                    f"the base weight of layer {layer_name} holds NaN or infinity; download or copy the base again."
                )
            if config.change != "low_rank":
                columns, rows = selected_indices(weight, r, config, layer_name, saved)
                self.secura_columns[adapter_name] = columns
                self.secura_rows[adapter_name] = rows
                (self._unselected.add if weight.is_meta and not saved else self._unselected.discard)(adapter_name)
            alpha = config.alpha_pattern.get(get_pattern_key(list(config.alpha_pattern), layer_name), config.alpha)
            self.secura_settings[adapter_name] = LayerSettings(
                norm=norm_of(config),
                moving=config.reference == "moving",
                undamped=config.fold == "undamped",
                # An adapter that was saved without a scale had none.
                scale=float(saved.get("scale", 1.0)),
                alpha_over_r=1.0 if alpha is None else alpha / r,
            )
            like = torch.empty(0, dtype=weight.dtype, device=weight.device)
            bias = self.out_features if config.output_bias else None
            factors: ChangeFactors
            if config.change == "cabr":
                factors = CabrFactors(r, inner_r, bias=bias, like=like)
            elif config.change == "cur":
                factors = CurFactors(r, bias=bias, like=like)
            else:
                factors = LowRankFactors(r, self.in_features, self.out_features, bias=bias, like=like)
            self.secura_change[adapter_name] = factors
            self.secura_dropout[adapter_name] = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
            ledger = FoldLedger()
            ledger.replace(empty_folds(config, factors, device=weight.device))
            self.secura_folds[adapter_name] = ledger
            self._frozen_of_quantized.pop(adapter_name, None)
            self._measures.pop(adapter_name, None)
            self._row_references.pop(adapter_name, None)
            self._stale_references.add(adapter_name)
            self._start_(adapter_name, config, weight, is_saved=bool(saved))
            if self._is_sharded and not weight.is_meta:
                # Now that it is whole: later, one process alone may save the adapter.
                self._digests.fingerprint(lambda: nullcontext(weight))
            self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def _ranks(self, config: SecuraConfig, layer_name: str) -> tuple[int, int]:
        smaller_side = min(self.in_features, self.out_features)
        r = config.rank_pattern.get(get_pattern_key(list(config.rank_pattern), layer_name), config.r)
        if r is None:
            r = min(DEFAULT_RANK, smaller_side)
        elif r > smaller_side:
            raise ConfigError(
                f"r is {r}, but layer {layer_name} is {self.out_features} × {self.in_features}, so r can be at "
                f"most {smaller_side}; lower r, set rank_pattern for this layer, or leave r unset."
            )
        inner_r = DEFAULT_WIDENING * r if config.inner_r is None else config.inner_r
        largest = max(self.in_features, self.out_features, DEFAULT_WIDENING * r)
        if config.change == "cabr" and inner_r > largest:
            raise ConfigError(
                f"inner_r is {inner_r}, but layer {layer_name} is {self.out_features} × {self.in_features}, so inner_r "
                f"can be at most {largest}; lower it, or leave it unset."
            )
        if inner_r < r:
            raise ConfigError(f"inner_r is {inner_r}, but r is {r} for layer {layer_name}; inner_r must be at least r.")
        return r, inner_r

    @torch.no_grad()
    def _start_(self, adapter_name: str, config: SecuraConfig, weight: Tensor, *, is_saved: bool) -> None:
        factors, settings = self._change(adapter_name), self.secura_settings[adapter_name]
        started, zeroed = factors.starting_factors()
        if zeroed.is_meta:  # loading: the checkpoint fills them
            return
        zeroed.zero_()
        if factors.bias is not None:
            factors.bias.zero_()
        if started is not None:
            if weight.is_meta:
                started.zero_()
            else:
                started.copy_(started_factor(config, weight, *started.shape))
        if config.scale == "natural" and not (weight.is_meta or is_saved):
            is_cur = adapter_name in self.secura_columns
            step_size = factors.sign_step_size(self._gathered_from(weight, adapter_name) if is_cur else None)
            scale = natural_scale(natural_size(weight, settings.weight_norm or settings.row_bound), step_size)
            self.secura_settings[adapter_name] = replace(settings, scale=scale)
        if not config.init_weights and not weight.is_meta:
            zeroed.normal_()
            change = weight_change(self._thin_factors(adapter_name)).float()
            size = change.square().mean().sqrt().clamp_min(torch.finfo(torch.float32).tiny)
            zeroed.mul_(RANDOM_START_SHARE * weight.float().square().mean().sqrt() / size)

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        # PEFT's version also casts to the base layer's dtype. The factors are made in it, and a
        # checkpoint in float32 must not lose bits on its way into a bfloat16 model.
        if device is None:
            device, _ = self._get_base_layer_device_and_dtype(self._linear)
        if device is None:
            return
        for name in self.adapter_layer_names + self.other_param_names:
            container: Any = getattr(self, name)
            if not isinstance(container, (nn.ModuleDict, BufferDict)) or adapter_name not in container:
                continue
            item: Any = container[adapter_name]
            if isinstance(item, nn.Module) and any(one.is_meta for one in item.parameters()):
                continue
            container[adapter_name] = item.to(device)

    # ------------------------------------------------------------------ the equation

    @torch.no_grad()  # the norm works in place, which no backward pass could follow
    def effective_weight(self, adapter_name: str) -> Tensor:
        """W' of one adapter, shape (out, in), float32 or wider; a new tensor, without a gradient.

        Raises:
            MergeError: for norm='released', which acts on activations.
        """
        settings = self._weight_space_settings(adapter_name)
        with self.weights_at_hand([adapter_name]):
            weight, factors = self._pretrained_weight(), self._factors_in_force(adapter_name)
            reference, norm = self._reference(adapter_name, weight), settings.weight_norm
            if norm is not None:
                measured = self._measured(adapter_name, reference, norm)
                return constrained_weight(
                    factors, reference, norm, measured=measured, fused=fused_norm(norm, reference)
                )
            wide = torch.promote_types(weight.dtype, torch.float32)
            return weight_change(factors, like=weight).to(wide).add_(reference)

    def effective_weight_with_gradient(self, adapter_name: str) -> Tensor:
        """W' of one adapter as `effective_weight`, differentiable in the trained factors; for penalties on it.

        Raises:
            MergeError: for norm='released', which acts on activations.
        """
        norm = self._weight_space_settings(adapter_name).weight_norm
        with self.weights_at_hand([adapter_name]):
            weight = self._pretrained_weight()
            wide = torch.promote_types(weight.dtype, torch.float32)
            reference = self._reference(adapter_name, weight).to(wide)
            change = weight_change(self._factors_in_force(adapter_name)).to(wide)
        return reference + change if norm is None else norm.constrain(reference, change)

    def get_delta_weight(self, adapter_name: str) -> Tensor:
        """W' - W0 in the layout the base layer stores its weight in, and the dtype of the trained factors."""
        with self.weights_at_hand([]):
            delta = self.effective_weight(adapter_name) - self._pretrained_weight()
        # PEFT's conversion gives the LoRA the dtype it finds here.
        delta = delta.to(next(self._change(adapter_name).parameters()).dtype)
        return delta.T if self._is_transposed else delta

    @torch.no_grad()
    def low_rank_change(self, adapter_name: str) -> ThinFactors | None:
        """W' - W0 as a product of thin factors where it is exactly one; None where a norm acts on each weight.

        It is one without a norm, under a bound on rows, and after `undamped` folds with nothing
        learned since. The factors stand for the layout (out, in), whatever the base layer's is.

        Raises:
            MergeError: for norm='released', which acts on activations.
        """
        settings = self._weight_space_settings(adapter_name)
        with self.weights_at_hand([adapter_name]):
            if settings.row_bound is not None:
                return self._factors_in_force(adapter_name)
            if settings.norm == "none":
                # Thin where that is thinner, whatever a forward pass takes.
                return self._thin_factors(adapter_name, self._folds_in_change(adapter_name, multiplied_out=False))
            if self._change(adapter_name).starting_factors()[1].any():
                return None
            folds = self._folded_factors(adapter_name, self._ledger(adapter_name).folds())
            if not folds:
                return self._thin_factors(adapter_name)  # a product of 0
            if not (settings.folds_move_the_reference and settings.undamped):
                return None
            return sum_of_changes(folds, shared_right=self._change(adapter_name).shared_right)

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """Whether W' - W0 exists as a matrix that a LoRA can approximate; a word where a low rank loses part of it."""
        norm = self.secura_settings[adapter_name].norm
        if norm != "released" and self.low_rank_change(adapter_name) is None:
            warnings.warn(
                "the adapter's norm makes its change of full rank, so a LoRA of low rank loses part of it; "
                "`secura export --to lora` says how much, layer by layer, and `--to merged` loses nothing.",
                stacklevel=2,
            )
        return norm != "released"

    def _residual(self, inputs: Tensor, base_output: Tensor, adapter_name: str) -> Tensor:
        """What an adapter adds to the base layer's output."""
        settings = self.secura_settings[adapter_name]
        inputs = self.secura_dropout[adapter_name](inputs)
        bias = self._change(adapter_name).bias
        norm = settings.weight_norm
        if norm is None:
            factors = self._factors_in_force(adapter_name)
            inputs = self._cast_input_dtype(inputs, factors.right.dtype)
            change = output_change(inputs, factors)
            if bias is not None:
                change = change + bias
            if settings.norm != "released":
                return change
            reference_output = base_output
            if settings.folds_move_the_reference:
                for fold in self._folded_factors(adapter_name, self._folds_in_change(adapter_name)):
                    reference_output = reference_output + output_change(inputs, fold)
            return released_output(reference_output, change) - base_output
        residual = self._constrained_product(inputs, adapter_name, norm, less_base=True)
        return residual if bias is None else residual + bias

    def _with_base(self, inputs: Tensor, adapter_name: str) -> Tensor:
        """The output of base layer and adapter as one product, for a single adapter with a norm on each weight."""
        norm = self.secura_settings[adapter_name].weight_norm
        assert norm is not None
        bias = self._change(adapter_name).bias
        own_bias = self._linear.bias
        if bias is None:
            bias = own_bias
        elif own_bias is not None:
            bias = own_bias + bias
        return self._constrained_product(inputs, adapter_name, norm, bias=bias)

    def _constrained_product(
        self,
        inputs: Tensor,
        adapter_name: str,
        norm: WeightNorm,
        *,
        bias: Tensor | None = None,
        less_base: bool = False,
    ) -> Tensor:
        """x W'ᵀ + bias, or x (W' - W0)ᵀ + bias, in autocast's type where that is on."""
        device = inputs.device.type
        if _autocast_is_on(device):
            inputs = inputs.to(torch.get_autocast_dtype(device))
        # Once: a quantized one is a new tensor each time, kept for the backward pass.
        weight = self._pretrained_weight()
        reference = self._reference(adapter_name, weight)
        with without_autocast(device):
            return constrained_linear(
                inputs,
                self._thin_factors(adapter_name),
                reference,
                norm,
                measured=self._measured(adapter_name, reference, norm),
                bias=None if bias is None else bias.to(inputs.dtype),
                less=weight if less_base else None,
                fused=fused_norm(norm, reference),
            )

    def _goes_with_base(self, inputs: Tensor, adapter_name: str) -> bool:
        return (
            self.secura_settings[adapter_name].weight_norm is not None
            and self.quantization_backend is None
            and (_autocast_is_on(inputs.device.type) or inputs.dtype == self._linear.weight.dtype)
            and not (self.training and isinstance(self.secura_dropout[adapter_name], nn.Dropout))
            and _only_multiplies(self.base_layer)
        )

    def _measured(self, adapter_name: str, reference: Tensor, norm: WeightNorm) -> Tensor | None:
        """What the norm needs to know of all of W_ref, kept until it moves."""
        if torch.compiler.is_compiling():  # a trace keeps nothing from one pass to the next
            return norm.measure(reference)
        is_moved = adapter_name in self.secura_reference and reference is self.secura_reference[adapter_name]
        moved = reference if is_moved else None
        made_of = reference.device, None if self._is_sharded else self._state_of_weight()
        kept = self._measures.get(adapter_name)
        if kept is None or kept[1] is not moved or kept[2] != made_of:
            with torch.inference_mode(False), torch.no_grad():  # a first pass may only infer, and a later one learn
                kept = self._measures[adapter_name] = norm.measure(reference), moved, made_of
        return kept[0]

    def check_sealed_tensors(self, adapter_name: str) -> None:
        """Refuse factors that are not those the config was saved with, where a loader called no hook of ours.

        Raises:
            ConfigError: naming the first that differs.
        """
        sealed = self.sealed_tensors.pop(adapter_name, {})
        found = {f"change.{name}": each for name, each in self._change(adapter_name).named_parameters()}
        found |= {f"folds.{name}": each for name, each in self._ledger(adapter_name).named_parameters()}
        if not can_be_sealed(found):
            return
        # A loader may have written to the base layer too, whose key an adapter's file can hold.
        if "of_base" in sealed and not self.is_made_for(fingerprint_from_text(sealed["of_base"])):
            raise ConfigError(
                f"the weights file of adapter {adapter_name!r} has changed a weight of the base model itself; load the "
                "base again, and take the adapter's files as they were saved."
            )
        for name, tensor in found.items():
            was = sealed.get(name)
            if was is not None and was_changed(tensor_digest(tensor, as_in=was), was):
                raise ConfigError(
                    f"secura_{name} of adapter {adapter_name!r} is not what was saved; take the adapter's "
                    "files as they were saved."
                )

    def _thin_factors(self, adapter_name: str, folded: list[dict[str, Tensor]] | None = None) -> ThinFactors:
        if adapter_name in self.sealed_tensors:
            self.check_sealed_tensors(adapter_name)
        settings = self.secura_settings[adapter_name]
        if folded is None:
            folded = [] if settings.folds_move_the_reference else self._folds_in_change(adapter_name)
        return self._change(adapter_name).thin_factors(self._frozen_factors(adapter_name), folded, settings.multiplier)

    def _factors_in_force(self, adapter_name: str) -> ThinFactors:
        """D as thin factors; under a bound on rows W' - W0, with what it leaves of D and of each fold."""
        bound = self.secura_settings[adapter_name].row_bound
        if bound is None:
            return self._thin_factors(adapter_name)
        change = self._change(adapter_name)
        device = next(change.parameters()).device
        with without_autocast(device.type):  # of 8 bits, a bound would be none
            reference = self._row_reference(adapter_name, bound, device)
            restrained = bound.restrain(self._thin_factors(adapter_name), reference.limits)
        if reference.added is None:
            return restrained
        return sum_of_changes([reference.added, restrained], shared_right=change.shared_right)

    def _row_reference(self, adapter_name: str, bound: RowBounded, device: torch.device) -> RowReference:
        """The limits of rows and what folds have moved, kept until the base weight or the folds change."""
        if torch.compiler.is_compiling():  # as in `_measured`
            return self._row_reference_of_now(adapter_name, bound)
        settings = self.secura_settings[adapter_name]
        is_stale = settings.folds_move_the_reference and adapter_name in self._stale_references
        made_of = device, None if self._is_sharded else self._state_of_weight()
        kept, kept_made_of = self._row_references.get(adapter_name, (None, None))
        if kept is not None and kept_made_of == made_of and not is_stale:
            return kept
        with torch.inference_mode(False), torch.no_grad():  # a first pass may only infer, and a later one learn
            found = self._row_reference_of_now(adapter_name, bound)
        self._row_references[adapter_name] = found, made_of
        if settings.folds_move_the_reference:
            self._stale_references.discard(adapter_name)
        return found

    def _row_reference_of_now(self, adapter_name: str, bound: RowBounded) -> RowReference:
        settings = self.secura_settings[adapter_name]
        folds = self._ledger(adapter_name).folds() if settings.folds_move_the_reference else []
        return row_reference(
            self._pretrained_weight(),
            self._folded_factors(adapter_name, folds),
            bound,
            undamped=settings.undamped,
            shared_right=self._change(adapter_name).shared_right,
        )

    def _folded_factors(self, adapter_name: str, folds: list[dict[str, Tensor]]) -> list[ThinFactors]:
        change, frozen = self._change(adapter_name), self._frozen_factors(adapter_name)
        multiplier = self.secura_settings[adapter_name].multiplier
        return [change.folded_factors(frozen, fold, multiplier) for fold in folds]

    def _folds_in_change(self, adapter_name: str, *, multiplied_out: bool = True) -> list[dict[str, Tensor]]:
        """Folds that add up; many pairs of `low_rank` as one, of no higher rank than the layer's own.

        Under a moving reference they are one pair from the first fold on, so that a forward pass takes as long after
        many folds as after one. `multiplied_out=False` is for who wants them thin while that is of lower rank.
        """
        ledger, change = self._ledger(adapter_name), self._change(adapter_name)
        count = ledger.count()
        if not isinstance(change, LowRankFactors) or not count:
            return ledger.folds()
        at_once = multiplied_out and self.secura_settings[adapter_name].moving
        if not at_once and count * len(change.down) < min(self.in_features, self.out_features):
            return ledger.folds()
        if adapter_name in self._stale_references or adapter_name not in self.secura_folded:
            with torch.no_grad():
                total = torch.zeros(self.out_features, self.in_features, device=change.down.device)
                for fold in ledger.folds():
                    total += fold["up"] @ fold["down"]
            self.secura_folded[adapter_name] = total
            self._stale_references.discard(adapter_name)
        total = self.secura_folded[adapter_name]
        identity = torch.eye(min(total.shape), device=total.device)
        return [
            {"up": total, "down": identity} if len(identity) == self.in_features else {"up": identity, "down": total}
        ]

    def _frozen_factors(self, adapter_name: str) -> FrozenFactors | None:
        if adapter_name not in self.secura_columns:
            return None
        cached = self._frozen_of_quantized.get(adapter_name)
        if cached is not None and cached.rows.device == self.secura_rows[adapter_name].device:
            return cached
        weight = self._pretrained_weight()
        if adapter_name in self._unselected and not weight.is_meta:
            raise ConfigError(
                f"adapter {adapter_name!r} was made while the base model was on the meta device, so its columns and "
                "rows were never chosen; attach it once the base weights are loaded, or load a saved adapter."
            )
        frozen = self._gathered_from(weight, adapter_name)
        if self.quantization_backend is not None:  # spares a dequantization in each forward pass
            self._frozen_of_quantized[adapter_name] = frozen
        return frozen

    def _gathered_from(self, weight: Tensor, adapter_name: str) -> FrozenFactors:
        columns, rows = self.secura_columns[adapter_name], self.secura_rows[adapter_name]
        return FrozenFactors(weight.index_select(1, columns), weight.index_select(0, rows))

    def _reference(self, adapter_name: str, weight: Tensor) -> Tensor:
        """W_ref: the pretrained weight itself, or the buffer that folds have moved; W0 where they are thin factors."""
        settings = self.secura_settings[adapter_name]
        ledger = self._ledger(adapter_name)
        if settings.row_bound is not None or not settings.folds_move_the_reference or not len(ledger._modules):
            return weight
        if adapter_name in self._stale_references or adapter_name not in self.secura_reference:
            with torch.no_grad():
                folds = self._folded_factors(adapter_name, ledger.folds())
                norm = settings.weight_norm
                self.secura_reference[adapter_name] = (
                    undamped_reference(weight, folds)
                    if settings.undamped or norm is None
                    else kept_reference(weight, folds, norm)
                )
            self._measures.pop(adapter_name, None)
            self._stale_references.discard(adapter_name)
        return self.secura_reference[adapter_name]

    def _pretrained_weight(self) -> Tensor:
        """W0, shape (out, in): as it was before any merge, dequantized where it is quantized."""
        if self._before_merge is not None:
            weight = self._before_merge.weight_beside(self._linear)
        elif self.quantization_backend is not None:
            weight = self._dequantized()
        else:
            weight = whole(self._linear.weight.detach())
        return weight.T if self._is_transposed else weight

    def _dequantized(self) -> Tensor:
        assert self.quantization_backend is not None
        state = getattr(getattr(self._linear, "weight", None), "quant_state", None)
        if getattr(state, "packing_format_for_cpu", False):
            raise ConfigError(
                "bitsandbytes has repacked this 4-bit layer for inference on the CPU, so it can no longer be "
                "dequantized; load the base model again and attach the adapter before its first forward pass."
            )
        try:
            return self.quantization_backend.get_base_weight(self._linear)
        except TypeError as error:
            raise ConfigError(
                f"layers quantized by {self.quantization_backend.backend_name} cannot be dequantized, and SECURA's "
                "C, R and norm come from the weight itself; use an 8-bit or 4-bit bitsandbytes, HQQ or torchao base."
            ) from error

    def weights_at_hand(self, adapter_names: list[str]) -> AbstractContextManager[Any]:
        """Bring in what accelerate has offloaded of the base layer and of adapters, to be read in the block."""
        adapters = [self.secura_change[name] for name in adapter_names]
        if not any(has_accelerate_hook(module) for module in (self._linear, *adapters)):
            return nullcontext()
        folds = [entry for name in adapter_names for entry in self._ledger(name).children()]
        return brought_in([self._linear, *adapters, *folds])

    @contextmanager
    def _base_weight_to_write(self) -> Iterator[None]:
        """The base layer's weight in its place, and what is written to it kept where it is offloaded to."""
        with onload_layer(self) if is_offloaded(self._linear) else nullcontext():
            if is_offloaded(self._linear):
                raise MergeError(
                    "the base weight is offloaded by more than one hook of accelerate, and PEFT can write through one "
                    "alone; take them off with accelerate.hooks.remove_hook_from_submodules, and offload after merging."
                )
            yield

    @property
    def _is_sharded(self) -> bool:
        return self.quantization_backend is None and is_sharded(self._linear.weight)

    @property
    def _is_transposed(self) -> bool:
        return isinstance(self._linear, Conv1D)

    def _change(self, adapter_name: str) -> ChangeFactors:
        factors = self.secura_change[adapter_name]
        assert isinstance(factors, ChangeFactors)
        return factors

    def _ledger(self, adapter_name: str) -> FoldLedger:
        ledger = self.secura_folds[adapter_name]
        assert isinstance(ledger, FoldLedger)
        return ledger

    # ------------------------------------------------------------------ folding

    def fold_(self, adapter_name: str, task: str) -> None:
        """Move what is under training into the ledger under the name of a task."""
        self.refuse_to_fold(adapter_name)
        factors = self._change(adapter_name)
        with torch.no_grad():
            fold = factors.current_fold()
            is_cached = self._extend_cached_(adapter_name, fold)
        self._ledger(adapter_name).add(task, fold, summed=self.sums_folds(adapter_name))
        factors.reset_after_fold_()
        if not is_cached:
            self._stale_references.add(adapter_name)

    def _extend_cached_(self, adapter_name: str, fold: dict[str, Tensor]) -> bool:
        """Take one more fold into what is cached of those before it, to the bits that building it anew gives.

        False where nothing is cached, or where folds are sums that round otherwise: it is then built when next used.
        """
        settings, norm = self.secura_settings[adapter_name], self.secura_settings[adapter_name].weight_norm
        if adapter_name in self._stale_references or self.sums_folds(adapter_name) or self._is_sharded:
            return False
        if settings.folds_move_the_reference and settings.row_bound is not None:
            kept, made_of = self._row_references.get(adapter_name, (None, None))
            if kept is None:
                return False
            device = fold[next(iter(fold))].device
            with self.weights_at_hand([adapter_name]), without_autocast(device.type):
                (one,) = self._folded_factors(adapter_name, [fold])
                moved = moved_row_reference(
                    kept,
                    self._pretrained_weight(),
                    one,
                    settings.row_bound,
                    undamped=settings.undamped,
                    shared_right=self._change(adapter_name).shared_right,
                )
            self._row_references[adapter_name] = moved, made_of
            return True
        if settings.folds_move_the_reference and norm is not None:
            if adapter_name not in self.secura_reference:
                return False
            with self.weights_at_hand([adapter_name]):
                one = self._folded_factors(adapter_name, [fold])
            reference = self.secura_reference[adapter_name]
            self._measures.pop(adapter_name, None)  # which holds on to the reference
            self.secura_reference[adapter_name] = (
                undamped_reference(reference, one) if settings.undamped else kept_reference(reference, one, norm)
            )
            return True
        if adapter_name not in self.secura_folded:
            return False
        self.secura_folded[adapter_name] = self.secura_folded[adapter_name] + fold["up"] @ fold["down"]
        return True

    def sums_folds(self, adapter_name: str) -> bool:
        """Whether the folds of one task are kept as one sum, and not each by itself."""
        is_low_rank = isinstance(self._change(adapter_name), LowRankFactors)
        return self.secura_settings[adapter_name].folds_add_up and not is_low_rank

    def undo_(self, adapter_name: str, task: str) -> None:
        """Take every fold of a task out of the ledger."""
        self.refuse_to_undo()
        self._ledger(adapter_name).remove(task)
        self._stale_references.add(adapter_name)

    def set_stored(
        self, adapter_name: str, indices: dict[str, Tensor], scale: float, folds: dict[str, dict[str, Tensor]]
    ) -> None:
        """Take over the indices, the scale and the folds that a checkpoint holds."""
        self.set_change_scale(adapter_name, scale)
        for name, values in indices.items():
            container: Any = getattr(self, name)
            container[adapter_name] = values.long().to(container[adapter_name].device)
            self._unselected.discard(adapter_name)
        with brought_in([self._linear]):
            device = next(self._linear.parameters()).device  # a quantized layer may have no `weight`
        self._ledger(adapter_name).replace(
            {
                key: {name: factor.float().to(device, copy=True) for name, factor in fold.items()}
                for key, fold in folds.items()
            }
        )
        self._frozen_of_quantized.pop(adapter_name, None)
        self._stale_references.add(adapter_name)

    def set_change_scale(self, adapter_name: str, scale: float) -> None:
        """Set the multiplier of D, which acts inside the norm and on folds alike."""
        self.secura_settings[adapter_name] = replace(self.secura_settings[adapter_name], scale=scale)
        self._stale_references.add(adapter_name)

    def fingerprint(self) -> Tensor | None:
        """Fingerprint of W0, from digests that are kept for as long as W0 is; None while it is on the meta device."""
        return None if self._is_to_be_loaded else self._digests_of_now().fingerprint(self._pretrained_weight_at_hand)

    def is_made_for(self, fingerprint: Tensor) -> bool:
        """Whether a stored fingerprint is that of W0, as far as it can be told.

        It cannot while W0 is on the meta device, nor where it is plain and the fingerprint of a quantized weight.
        """
        unknown = self._is_to_be_loaded or (self.quantization_backend is None and is_of_quantized(fingerprint))
        return unknown or self._digests_of_now().match(fingerprint, self._pretrained_weight_at_hand)

    def _digests_of_now(self) -> WeightDigests:
        # A divided weight was digested while it was whole; dividing it is no change.
        if not self._is_sharded and (state := self._state_of_weight()) != self._digested:
            self._digests, self._digested = self._new_digests(), state
        return self._digests

    def _state_of_weight(self) -> tuple[torch.dtype, int] | None:
        """What changes where the weight is cast, or written to in place."""
        weight = getattr(self._linear, "weight", None)
        if not isinstance(weight, Tensor) or weight.is_inference():
            return None
        return weight.dtype, weight._version

    @property
    def _is_to_be_loaded(self) -> bool:
        weight = next(self._linear.parameters(), None)  # a quantized layer may have none
        return weight is not None and weight.is_meta and not is_offloaded(self._linear)

    @contextmanager
    def _pretrained_weight_at_hand(self) -> Iterator[Tensor]:
        with self.weights_at_hand([]), gather_params_ctx(self._linear.parameters()):
            yield self._pretrained_weight()

    def forget_what_was_derived(self) -> None:
        """Rebuild from the base weight, at the next use, whatever was computed from an earlier one."""
        self._stale_references.update(self.secura_settings)
        self._frozen_of_quantized.clear()
        self._measures.clear()
        self._row_references.clear()
        self._digests = self._new_digests()

    def _new_digests(self) -> WeightDigests:
        return WeightDigests(quantized=self.quantization_backend is not None)

    # ------------------------------------------------------------------ merging

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Write W' into the base layer. `unmerge` puts the original weight back, to the bit.

        Each adapter's change is taken from the original weight, so the order of merges makes
        no difference.

        Raises:
            MergeError: if an adapter cannot be merged, such as one with norm='released'.
            ValueError: with `safe_merge`, if the merged weight holds NaN or infinity.
        """
        names = [name for name in check_adapters_to_merge(self, adapter_names) if name in self.secura_change]
        if not names:
            return
        if self._is_sharded:
            raise MergeError(
                "the base weight is divided among processes, so nothing can be merged into it; save the adapter, and "
                "merge it in a single process."
            )
        for name in names:
            self._weight_space_settings(name)
        with self._base_weight_to_write(), self.weights_at_hand(names):
            base_layer = self._linear
            bias = self._merged_bias(base_layer, names)
            weight = self._merged_weight([*self.merged_adapters, *names], check=names if safe_merge else [])
            if self._before_merge is None:
                self._before_merge = _BeforeMerge.of(self, base_layer)
            weight = (weight.T if self._is_transposed else weight).to(self._before_merge.weight.dtype)
            if self.quantization_backend is not None:
                # A copy takes the merged weight: quantizing again would not give the old one back.
                self.base_layer = copy.deepcopy(self.base_layer)
                self.set_base_weight(weight)
            else:
                base_layer.weight.data = weight.contiguous()
            if bias is not None:
                self._linear.bias.data = bias
        self.merged_adapters.extend(names)

    def unmerge(self) -> None:
        """Put the base layer's original weight back."""
        if self._before_merge is None:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        with self._base_weight_to_write():
            self._before_merge.restore_(self)
        self._before_merge = None
        self.merged_adapters.clear()

    def _merged_weight(self, names: list[str], check: list[str]) -> Tensor:
        weights = []
        for name in names:
            weight = self.effective_weight(name)
            if name in check and not all_finite(weight):
                raise ValueError(f"NaNs detected in the merged weights. The adapter {name} seems to be broken")
            weights.append(weight)
        if len(weights) == 1:
            return weights[0]
        original = self._pretrained_weight()
        total = original.to(weights[0].dtype, copy=True)
        for weight in weights:
            total += weight - original
        return total

    def _merged_bias(self, base_layer: Any, names: list[str]) -> Tensor | None:
        biases = [bias for name in names if (bias := self._change(name).bias) is not None]
        if not biases:
            return None
        if base_layer.bias is None:
            raise MergeError(
                "the adapter has a trained output bias, but the base layer has none to merge it into; train with "
                "output_bias=False, or keep the adapter unmerged."
            )
        return torch.stack([base_layer.bias.detach(), *(bias.detach() for bias in biases)]).sum(0)

    def _weight_space_settings(self, adapter_name: str) -> LayerSettings:
        settings = self.secura_settings[adapter_name]
        if settings.norm == "released":
            raise MergeError(
                f"adapter {adapter_name!r} has norm='released', which depends on each input's activations, so no "
                "single weight equals it; keep it unmerged, or train with norm='paper' or norm='bounded'."
            )
        return settings

    def refuse_to_fold(self, adapter_name: str) -> None:
        """Raise where a fold cannot be done in the present state.

        Raises:
            FoldError: while an adapter is merged, or where accelerate offloads the factors.
        """
        self.refuse_to_undo()
        if is_offloaded(self._change(adapter_name)):
            raise FoldError(
                f"cannot fold adapter {adapter_name!r} while accelerate offloads its factors, since what a fold sets "
                "to 0 would come back; take the hooks off with accelerate.hooks.remove_hook_from_submodules first."
            )

    def refuse_to_undo(self) -> None:
        """Raise where no fold can be taken out in the present state.

        Raises:
            FoldError: while an adapter is merged.
        """
        if self.merged:
            raise FoldError(
                f"cannot fold or undo while {self.merged_adapters} are merged; call unmerge_adapter() first."
            )


def _only_multiplies(module: nn.Module) -> bool:
    """Whether calling a module is its product with its weight and nothing more: no hook, no forward of its own."""
    return (
        type(module).forward in _PLAIN_FORWARDS
        and "forward" not in module.__dict__  # accelerate puts a function there that runs its hook
        and not (module._forward_pre_hooks or module._forward_hooks)
        and not (module._backward_pre_hooks or module._backward_hooks)
        # torch 2.6 has no function that tells of any of these.
        and not (_global_forward_pre_hooks or _global_forward_hooks)
        and not (_global_backward_pre_hooks or _global_backward_hooks)
    )


def _autocast_is_on(device: str) -> bool:
    return device != "meta" and torch.is_autocast_enabled(device)  # the meta device has no autocast to ask about


@dataclass
class _BeforeMerge:
    """What a merge replaced, kept to be put back."""

    weight: Tensor
    bias: Tensor | None
    quantized_layer: nn.Module | None

    @classmethod
    def of(cls, layer: SecuraLayer, base_layer: Any) -> _BeforeMerge:
        bias = None if base_layer.bias is None else base_layer.bias.data.clone()
        if layer.quantization_backend is not None:
            return cls(layer._dequantized(), bias, layer.base_layer)
        weight = base_layer.weight.data
        # Offloaded weights are brought in one layer at a time; kept there, all of them would be in.
        return cls(weight.cpu() if has_accelerate_hook(base_layer) else weight, bias, None)

    def weight_beside(self, base_layer: Any) -> Tensor:
        """The weight on the device where an offloaded base layer computes; where it lies, without offloading."""
        return self.weight.to(base_layer.weight.device) if has_accelerate_hook(base_layer) else self.weight

    def restore_(self, layer: SecuraLayer) -> None:
        if self.quantized_layer is not None:
            layer.base_layer = self.quantized_layer
            return
        base_layer = layer._linear
        base_layer.weight.data = self.weight.to(base_layer.weight.device, base_layer.weight.dtype)
        if self.bias is not None:
            base_layer.bias.data = self.bias.to(base_layer.bias.device, base_layer.bias.dtype)


class Linear(nn.Module, SecuraLayer):
    """SECURA on `torch.nn.Linear`, on GPT-2's `Conv1D`, and on their quantized forms."""

    def __init__(
        self,
        base_layer: nn.Module,
        adapter_name: str,
        config: SecuraConfig,
        layer_name: str,
        digests: WeightDigests | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        SecuraLayer.__init__(self, base_layer, digests, **kwargs)
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config, layer_name)

    def forward(self, x: Tensor, *args: Any, adapter_names: list[str] | None = None, **kwargs: Any) -> Tensor:
        """The base layer's output under the active adapters, or under each row's own adapter."""
        if self.disable_adapters:
            if self.merged:
                self.unmerge()
            return self.base_layer(x, *args, **kwargs)
        if adapter_names is not None:
            return self._mixed_batch(x, adapter_names, *args, **kwargs)
        active = [name for name in self.active_adapters if name in self.secura_change]
        if self.merged or not active:
            return self.base_layer(x, *args, **kwargs)
        if len(active) == 1 and not args and not kwargs and self._goes_with_base(x, active[0]):
            return self._with_base(x, active[0])
        base_output = self._base_output(x, *args, **kwargs)
        output = base_output
        with self.weights_at_hand(active):
            for name in active:
                output = output + self._residual(x, base_output, name)
        return output.to(base_output.dtype)

    def _mixed_batch(self, x: Tensor, adapter_names: list[str], *args: Any, **kwargs: Any) -> Tensor:
        if len(x) != len(adapter_names):
            raise ValueError(
                "Length of `adapter_names` should be the same as the number of inputs, but got "
                f"{len(adapter_names)} and {len(x)} respectively."
            )
        if self.merged:
            raise ValueError(
                "Cannot pass `adapter_names` when there are merged adapters, please call `unmerge_adapter` first."
            )
        base_output = self._base_output(x, *args, **kwargs)
        output = base_output.clone()
        asked = sorted(set(adapter_names) & set(self.secura_change))
        with self.weights_at_hand(asked):
            for name in asked:
                rows = torch.tensor([row for row, wanted in enumerate(adapter_names) if wanted == name])
                rows = rows.to(x.device)
                if not args and not kwargs and self._goes_with_base(x, name):  # rounds as in a batch of its own
                    output[rows] = self._with_base(x[rows], name)
                    continue
                residual = self._residual(x[rows], base_output[rows], name)
                output[rows] = (base_output[rows] + residual).to(output.dtype)
        return output

    def _base_output(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        output = self.base_layer(x, *args, **kwargs)
        if self.quantization_backend is not None:
            return self.quantization_backend.maybe_clone_base_result(output)
        return output

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        # The base weight may be among what is loaded, but not into a divided model: FSDP2 loads
        # trained weights only. Here and not in SecuraLayer: nn.Module comes before it in the
        # method resolution order.
        if not self._is_sharded:
            self._stale_references.update(self.secura_settings)
            if any(key.startswith(f"{prefix}base_layer.") for key in state_dict):
                self.forget_what_was_derived()
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def __repr__(self) -> str:
        return "secura." + super().__repr__()
