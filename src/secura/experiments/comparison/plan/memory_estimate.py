"""How much GPU memory a training step holds, piece by piece.

    weights       base and adapter, by their own types, buffers included: exact
    references    W_ref of each adapted layer, in float32 or wider, where folds move it; under a bound on
                  rows its limits and what folds have moved, as thin factors: exact
    folds         what each fold has stored, at the end of the run: exact
    gradients     as many bytes as the trained weights
    optimizer     AdamW's two moments, in the type of the trained weights: exact
    activations   what autograd saves; with checkpointing, the input of each layer and one layer in full
    copies        mixed precision only: each matrix once more in the type that is computed in, which
                  autograd keeps until the backward pass; with checkpointing those of one layer and the head
    temporaries   the larger of the loss's, (2 b + 4) · rows · tokens · vocabulary for logits of b bytes
                  a number, their float32 gradient and its copy; and what a norm on each weight holds of
                  the layer where that is most
    overhead      about 1 GB: CUDA's context and workspaces

What is missing: the gaps that PyTorch's allocator leaves, a few per cent.

Source:
    AdamW's state is that of torch.optim.AdamW; checkpointing by layer is Chen et al.,
    arXiv:1604.06174; what autograd saves is counted by `step_count`, not derived.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from secura.adapters.secura.factors import ChangeFactors, LowRankFactors
from secura.adapters.secura.layer import SecuraLayer
from secura.numerics.constrained_linear import temporary_bytes
from secura.training.meta_layers import all_weights, decoder_layers, whole
from secura.training.step_count import StepCount

OVERHEAD_BYTES = 1_000_000_000
_FLOAT32_BYTES = 4
_FLOAT64_BYTES = 8


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes a training step holds at its peak; see the module for each."""

    weights: int
    """Base and adapter, buffers included."""
    references: int
    """Moved references of adapted layers."""
    folds: int
    """What folds have stored."""
    gradients: int
    """Of the trained weights."""
    optimizer: int
    """AdamW's moments."""
    activations: int
    """What autograd saves."""
    copies: int
    """Of matrices, by mixed precision."""
    temporaries: int
    """The largest that come and go."""
    overhead: int = OVERHEAD_BYTES
    """CUDA's own."""

    @property
    def total(self) -> int:
        """All of it."""
        return sum(getattr(self, piece.name) for piece in fields(self))


@dataclass(frozen=True, kw_only=True)
class Folding:
    """How often an adapter is folded in a run."""

    tasks: int = 0
    """Under the names of how many tasks."""
    folds: int = 0
    """How often in all."""


def estimate_memory(
    model: PreTrainedModel | PeftModel,
    step: StepCount,
    *,
    batch: int,
    tokens: int,
    hidden: int,
    vocabulary: int,
    computed_in: torch.dtype,
    checkpointing: bool,
    folding: Folding,
) -> MemoryEstimate:
    """Add up what a step holds.

    Args:
        model: with its adapter, on any device, its weights in the types they are held in.
        step: what one forward pass saves, counted in the type that is computed in.
        batch: rows a forward pass.
        tokens: tokens a row.
        hidden: width of the model.
        vocabulary: logits a token.
        computed_in: type of the activations.
        checkpointing: whether activations are computed twice to hold fewer.
        folding: how often the adapter is folded.
    """
    trained_bytes = sum(_bytes(weight) for weight in all_weights(model) if weight.requires_grad)
    held = (*all_weights(model), *(buffer for part in whole(model) for buffer in part.buffers()))
    adapted = [(layer, name) for layer in _secura_layers(model) for name in layer.secura_change]
    return MemoryEstimate(
        weights=sum(map(_bytes, held)),
        references=sum(_reference_bytes(layer, name, folding) for layer, name in adapted),
        folds=sum(_fold_bytes(layer, name, folding) for layer, name in adapted) if folding.folds else 0,
        gradients=trained_bytes,
        optimizer=2 * trained_bytes,
        activations=_activations(step, batch * tokens * hidden * computed_in.itemsize, checkpointing=checkpointing),
        copies=_copies(model, computed_in, checkpointing=checkpointing),
        temporaries=max(
            (2 * computed_in.itemsize + _FLOAT32_BYTES) * batch * tokens * vocabulary, _norm_bytes(model, computed_in)
        ),
    )


def _activations(step: StepCount, layer_input: int, *, checkpointing: bool) -> int:
    if not checkpointing:
        return step.saved_in_layers + step.saved_elsewhere
    return step.saved_elsewhere + step.layers * layer_input + step.saved_in_layers // step.layers


def _copies(model: PreTrainedModel | PeftModel, computed_in: torch.dtype, *, checkpointing: bool) -> int:
    """Autocast casts a matrix wherever it is multiplied with; what is looked up in, an embedding, stays as it is."""
    if model.dtype == computed_in:
        return 0
    layers = decoder_layers(model)
    in_layers = sum(weight.numel() for weight in all_weights(layers) if weight.dim() > 1)
    output: Any = model.get_output_embeddings()
    head = 0 if output is None else output.weight.numel()
    return computed_in.itemsize * (head + (in_layers // len(layers) if checkpointing else in_layers))


def _reference_bytes(layer: SecuraLayer, adapter_name: str, folding: Folding) -> int:
    """W_ref of a layer, what its rows are measured by, or the folds of `low_rank` multiplied out."""
    settings, factors = layer.secura_settings[adapter_name], layer.secura_change[adapter_name]
    assert isinstance(factors, ChangeFactors)
    moved = settings.folds_move_the_reference and folding.folds > 0
    if settings.row_bound is not None:
        products = int(moved) if factors.shared_right else int(moved) * folding.folds
        rank = factors.starting_factors()[1].shape[1]
        limits_lengths_and_overlap = _FLOAT64_BYTES * layer.out_features * (2 + products * rank)
        return limits_lengths_and_overlap + _FLOAT32_BYTES * products * rank * (layer.out_features + layer.in_features)
    if moved and settings.weight_norm is not None:
        return _wide_bytes(layer)
    if not isinstance(factors, LowRankFactors) or not folding.folds:
        return 0
    ranks = folding.folds * len(factors.down)
    multiplied_out = settings.moving or ranks >= min(layer.in_features, layer.out_features)
    return _FLOAT32_BYTES * _weight(layer).numel() if multiplied_out else 0


def _fold_bytes(layer: SecuraLayer, adapter_name: str, folding: Folding) -> int:
    factors = layer.secura_change[adapter_name]
    assert isinstance(factors, ChangeFactors)
    kept = folding.tasks if layer.sums_folds(adapter_name) else folding.folds
    return kept * sum(map(_bytes, factors.current_fold().values()))


def _norm_bytes(model: nn.Module, computed_in: torch.dtype) -> int:
    """What a weight norm holds at a time, of the layer where that is most."""
    sizes = [
        temporary_bytes(weight.shape, norm, held_in=weight.dtype, computed_in=computed_in, device="cuda")
        for layer in _secura_layers(model)
        for weight in [_weight(layer)]
        for norm in [each.weight_norm for each in layer.secura_settings.values()]
        if norm is not None
    ]
    return max(sizes, default=0)


def _secura_layers(model: nn.Module) -> Iterator[SecuraLayer]:
    return (module for part in whole(model) for module in part.modules() if isinstance(module, SecuraLayer))


def _wide_bytes(layer: SecuraLayer) -> int:
    """A layer's whole weight in float32, or in its own type where that is wider."""
    weight = _weight(layer)
    return weight.numel() * torch.promote_types(weight.dtype, torch.float32).itemsize


def _weight(layer: SecuraLayer) -> Tensor:
    weight = layer.get_base_layer().weight
    assert isinstance(weight, Tensor)
    return weight


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
