"""How much GPU memory a training step holds, piece by piece.

    weights       base and adapter, by their own types, buffers included: exact
    references    W_ref of each adapted layer, float32, where folds move it
    gradients     as many bytes as the trained weights
    optimizer     AdamW's two moments, in the type of the trained weights: exact
    activations   what autograd saves; with checkpointing, the input of each layer and one layer in full
    copies        mixed precision only: each matrix once more in the type that is computed in, which
                  autograd keeps until the backward pass; with checkpointing those of one layer and the head
    temporaries   the larger of the loss's, (2 b + 4) · rows · tokens · vocabulary for logits of b bytes
                  a number, their float32 gradient and its copy; and a weight norm's two (out, in)
                  float32 matrices of the largest adapted layer, three where the weight has 16 bits
    overhead      about 1 GB: CUDA's context and workspaces

What is missing: the gaps that PyTorch's allocator leaves, a few per cent.

Source:
    AdamW's state is that of torch.optim.AdamW; checkpointing by layer is Chen et al.,
    arXiv:1604.06174; what autograd saves is counted by `meta_model`, not derived.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from secura.adapters.secura.layer import SecuraLayer
from secura.experiments.comparison.plan.meta_model import StepCount, decoder_layers

OVERHEAD_BYTES = 1_000_000_000
_FLOAT32_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes a training step holds at its peak; see the module for each."""

    weights: int
    """Base and adapter, buffers included."""
    references: int
    """Moved references of adapted layers."""
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
        return (
            self.weights
            + self.references
            + self.gradients
            + self.optimizer
            + self.activations
            + self.copies
            + self.temporaries
            + self.overhead
        )


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
    folds: bool,
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
        folds: whether the adapter is folded while it trains.
    """
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    trained_bytes = sum(weight.numel() * weight.element_size() for weight in trained)
    logits = batch * tokens * vocabulary
    return MemoryEstimate(
        weights=sum(each.numel() * each.element_size() for each in (*model.parameters(), *model.buffers())),
        references=sum(_wide_bytes(layer) for layer in _layers_with_moved_reference(model)) if folds else 0,
        gradients=trained_bytes,
        optimizer=2 * trained_bytes,
        activations=_activations(step, batch * tokens * hidden * computed_in.itemsize, checkpointing=checkpointing),
        copies=_copies(model, computed_in, checkpointing=checkpointing),
        temporaries=max((2 * computed_in.itemsize + _FLOAT32_BYTES) * logits, _norm_temporaries(model)),
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
    in_layers = sum(weight.numel() for weight in layers.parameters() if weight.dim() > 1)
    output: Any = model.get_output_embeddings()
    head = 0 if output is None else output.weight.numel()
    return computed_in.itemsize * (head + (in_layers // len(layers) if checkpointing else in_layers))


def _norm_temporaries(model: nn.Module) -> int:
    sizes = [
        _wide_bytes(layer) * (3 if _has_16_bits(layer) else 2)
        for layer in _secura_layers(model)
        if any(settings.weight_norm is not None for settings in layer.secura_settings.values())
    ]
    return max(sizes, default=0)


def _has_16_bits(layer: SecuraLayer) -> bool:
    weight = layer.get_base_layer().weight
    assert isinstance(weight, Tensor)
    return weight.element_size() < _FLOAT32_BYTES


def _layers_with_moved_reference(model: nn.Module) -> Iterator[SecuraLayer]:
    for layer in _secura_layers(model):
        if any(settings.folds_move_the_reference for settings in layer.secura_settings.values()):
            yield layer


def _secura_layers(model: nn.Module) -> Iterator[SecuraLayer]:
    return (module for module in model.modules() if isinstance(module, SecuraLayer))


def _wide_bytes(layer: SecuraLayer) -> int:
    return layer.out_features * layer.in_features * _FLOAT32_BYTES
