"""An adapter as a LoRA that stock PEFT loads: exact where the change is of low rank, measured where it is not.

Without a norm, under a bound on rows, and after undamped folds, the change is a product of thin
factors itself, so lora_B and lora_A are those factors and nothing is lost but their rounding. A
norm on each weight makes the change of full rank; then the best factors of a rank are taken, from
its singular values, and what they lose is known before anything is written.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, TaskType
from peft.tuners.lora import Linear as LoraLinear
from peft.utils.other import ModulesToSaveWrapper
from safetensors.torch import save_file
from torch import Tensor

from secura.adapters.secura.layer import SecuraLayer
from secura.errors import ConfigError, InputError
from secura.export.tuned_weights import (
    NOTHING_DRAWN_BACK,
    DrawnBack,
    TunedLayer,
    active_adapter,
    changes_more_than_weights,
    tuned_layers,
)
from secura.numerics.change import ThinFactors

SERVED_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks that vLLM serves; a LoRA is padded with zeros to the next of them, which changes nothing."""

DEFAULT_LIMIT = 0.01
"""The largest share of a layer's change, as energy, that a LoRA may lose unless more is accepted."""

_ROUNDING = 1e-5
"""Share of a weight's own size below which a difference is the rounding of float32 sums, not of a change."""


@dataclass(frozen=True, kw_only=True)
class LoraLayer:
    """One layer of a LoRA, with what it lost."""

    name: str
    """Name of the module in the base model."""
    down: Tensor
    """lora_A, shape (rank, in), float32, on the CPU."""
    up: Tensor
    """lora_B, shape (out, rank), float32, on the CPU."""
    bias: Tensor | None
    """What is added to the output, shape (out,); None where nothing is."""
    exact: bool
    """Whether the factors are those that were trained."""
    lost: float
    """Share of the change's squared Frobenius norm that they do not hold; 0 for a change of 0."""
    is_transposed: bool
    """Whether the base layer stores (in, out)."""

    @property
    def rank(self) -> int:
        """Rank of the factors."""
        return len(self.down)

    def padded(self, rank: int) -> tuple[Tensor, Tensor]:
        """lora_A and lora_B of a rank that is no lower, the rest of them 0."""
        missing = rank - self.rank
        down, up = self.down, self.up
        return (
            torch.cat([down, down.new_zeros(missing, down.shape[1])]),
            torch.cat([up, up.new_zeros(len(up), missing)], 1),
        )


@dataclass(frozen=True, kw_only=True)
class Lora:
    """A whole adapter as a LoRA, not written yet."""

    layers: Sequence[LoraLayer]
    """Every adapted module, in the order of the model."""
    whole_modules: Mapping[str, Mapping[str, Tensor]]
    """Modules that were trained whole, by name; vLLM serves no adapter that has any."""
    rank: int
    """The rank it is written with: the next that vLLM serves, or the layers' own where they are higher."""
    limit: float
    """The share of a layer's change that may be lost."""

    @property
    def exact(self) -> bool:
        """Whether nothing is lost but the rounding of the factors."""
        return all(layer.exact for layer in self.layers)

    @property
    def worst(self) -> LoraLayer:
        """The layer that lost the largest share of its change."""
        return max(self.layers, key=lambda layer: layer.lost)

    @property
    def over_limit(self) -> bool:
        """Whether some layer lost more than it may."""
        return self.worst.lost > self.limit


@torch.no_grad()
def as_lora(
    model: PeftModel,
    *,
    rank: int | None = None,
    limit: float = DEFAULT_LIMIT,
    drawn_back: DrawnBack = NOTHING_DRAWN_BACK,
    on_layer: Callable[[str], None] | None = None,
) -> Lora:
    """Write an adapter's change as low-rank factors, layer by layer.

    Args:
        model: a base with an adapter that is not merged.
        rank: of the factors where a change is not of low rank; None is, for each layer, the
            lowest that loses no more than `limit`.
        limit: the share of a layer's squared Frobenius norm that may be lost.
        drawn_back: what the dial has left over.
        on_layer: called with the name of each layer once it is done.

    Raises:
        InputError: if a module is neither Linear nor Conv1D, which a LoRA of vLLM or of
            llama.cpp cannot hold, or `rank` and `limit` are out of range.
        MergeError: if no single weight equals the adapter.
    """
    if rank is not None and rank < 1:
        raise ConfigError(f"the rank is {rank}; give a number of columns, at least 1.")
    if not 0 <= limit < 1:
        raise ConfigError(
            f"the limit of what may be lost is {limit}; give a share of at least 0 and below 1, such as 0.01."
        )
    layers = []
    for layer in tuned_layers(model, drawn_back):
        layers.append(_lora_layer(layer, rank, limit))
        if on_layer is not None:
            on_layer(layer.name)
    if not layers:
        raise InputError("the adapter changes no linear layer, so it cannot be written as a LoRA; use --to merged.")
    return Lora(
        layers=layers,
        whole_modules=_whole_modules(model),
        rank=_served_rank(max(layer.rank for layer in layers)),
        limit=limit,
    )


def _lora_layer(layer: TunedLayer, rank: int | None, limit: float) -> LoraLayer:
    if layer.before.ndim != 2 or type(layer.module.get_base_layer()).__name__ == "Embedding":
        raise InputError(
            f"{layer.name} is a {type(layer.module.get_base_layer()).__name__}, which no LoRA for serving holds; "
            "use --to merged."
        )
    before, after = (layer.before.T, layer.after.T) if layer.is_transposed else (layer.before, layer.after)
    change = after - before
    noise = _ROUNDING * before.norm().item()
    found = _trained_factors(layer)
    exact = found is not None and (change - found.left @ found.right).norm().item() <= noise
    if not exact:
        found = _best_factors(change, rank, limit, noise)
    assert found is not None
    missing = (change - found.left @ found.right).norm().item()
    size = change.norm().item()
    return LoraLayer(
        name=layer.name,
        down=found.right.float().cpu().contiguous(),
        up=found.left.float().cpu().contiguous(),
        bias=None if layer.bias_change is None else layer.bias_change.float().cpu(),
        exact=exact,
        lost=0.0 if exact or size <= noise else (missing / size) ** 2,
        is_transposed=layer.is_transposed,
    )


def _trained_factors(layer: TunedLayer) -> ThinFactors | None:
    """The factors as they were trained, where the change is their product."""
    found: ThinFactors | None = None
    if isinstance(layer.module, SecuraLayer):
        found = layer.module.low_rank_change(layer.adapter)
    elif isinstance(layer.module, LoraLinear) and layer.adapter not in layer.module.lora_variant:
        lora: Any = layer.module
        up, down = lora.lora_B[layer.adapter].weight, lora.lora_A[layer.adapter].weight
        found = ThinFactors(up.detach().float(), lora.scaling[layer.adapter] * down.detach().float())
    if found is None:
        return None
    device = layer.before.device
    return ThinFactors(found.left.detach().to(device).float(), found.right.detach().to(device).float())


def _best_factors(change: Tensor, rank: int | None, limit: float, noise: float) -> ThinFactors:
    """The product of a rank that is closest to a change; without a rank, of the lowest that keeps to the limit."""
    left, values, right = torch.linalg.svd(change, full_matrices=False)
    if rank is None:
        energy = values.double().square()
        left_over = energy.sum() - energy.cumsum(0)  # after keeping 1, 2, ... of them
        allowed = max(limit * energy.sum().item(), noise**2)
        rank = 1 + int((left_over > allowed).sum().item())
    rank = min(rank, len(values))
    root = values[:rank].sqrt()  # shared between the two, so that neither is far larger than the other
    return ThinFactors(left[:, :rank] * root, root[:, None] * right[:rank])


def _served_rank(rank: int) -> int:
    return next((served for served in SERVED_RANKS if served >= rank), rank)


def _whole_modules(model: PeftModel) -> dict[str, dict[str, Tensor]]:
    adapter = active_adapter(model)
    wrappers = {
        name.removeprefix("base_model.model."): module
        for name, module in model.named_modules()
        if isinstance(module, ModulesToSaveWrapper)
    }
    return {
        name: {key: value.detach().cpu() for key, value in wrappers[name].modules_to_save[adapter].state_dict().items()}
        for name in changes_more_than_weights(model)
    }


def save_lora(lora: Lora, folder: Path, *, base: str | None, module_names: Sequence[str], dtype: torch.dtype) -> None:
    """Write adapter_config.json and adapter_model.safetensors as PEFT writes those of a LoRA.

    Args:
        lora: what to write.
        folder: an existing folder.
        base: name of the base model for `base_model_name_or_path`.
        module_names: names of all modules of the base model, among which the adapted ones are named.
        dtype: of the factors.
    """
    tensors: dict[str, Tensor] = {}
    for layer in lora.layers:
        prefix = f"base_model.model.{layer.name}"
        down, up = layer.padded(lora.rank)
        tensors[f"{prefix}.lora_A.weight"] = down.to(dtype).contiguous()
        tensors[f"{prefix}.lora_B.weight"] = up.to(dtype).contiguous()
        if any(each.bias is not None for each in lora.layers):
            bias = torch.zeros(len(layer.up)) if layer.bias is None else layer.bias
            tensors[f"{prefix}.lora_B.bias"] = bias.to(dtype)
    for name, state in lora.whole_modules.items():
        tensors |= {f"base_model.model.{name}.{key}": value.contiguous() for key, value in state.items()}
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.rank,
        target_modules=_targets([layer.name for layer in lora.layers], module_names),
        fan_in_fan_out=all(layer.is_transposed for layer in lora.layers),
        lora_bias=any(layer.bias is not None for layer in lora.layers),
        modules_to_save=sorted(lora.whole_modules) or None,
        base_model_name_or_path=base,
        task_type=TaskType.CAUSAL_LM,
        inference_mode=True,
    )
    save_file(tensors, str(folder / "adapter_model.safetensors"), metadata={"format": "pt"})
    config.save_pretrained(str(folder))


def _targets(adapted: Sequence[str], module_names: Sequence[str]) -> list[str]:
    """Short names such as q_proj where they stand for exactly the adapted modules; else the whole names."""
    short = sorted({name.rpartition(".")[2] for name in adapted})
    meant = {name for name in module_names if name.rpartition(".")[2] in short}
    return short if meant == set(adapted) else sorted(adapted)
