"""The weights that an export holds, compared with those that it should hold, tensor by tensor.

| form | a tensor is right where it differs from W' by no more than |
|---|---|
| merged, gguf | its own rounding: that of W' to the dtype, or by the quantizer, that it is stored in |
| lora, gguf-lora | the share of the change W' - W0 that may be lost |

Noise over signal is the error of a tensor over what was learned in it: at 1 and above, storage has
drowned the change.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from gguf.quants import dequantize, quantize
from peft import PeftModel
from peft.utils.other import ModulesToSaveWrapper
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel

from secura.export.gguf_shapes import gguf_name, names_of, shape_of
from secura.export.tuned_weights import NOTHING_DRAWN_BACK, DrawnBack, active_adapter, tuned_layers
from secura.json_text import read_json

_SLACK = 1.05
"""An error may be this multiple of what rounding alone makes."""

_SUM_ROUNDING = 2e-6
"""Relative error of a float32 weight computed in another order."""

_UNKNOWN_QUANTIZER = 0.15
"""Relative error that is let pass where a tensor's quantizer is not in the `gguf` package, such as Q4_K."""


@dataclass(frozen=True, kw_only=True)
class WeightCheck:
    """One tensor."""

    name: str
    """Its name in transformers."""
    error: float
    """Relative to the weight; for a LoRA the share of the change that is lost. Infinite where it is missing."""
    allowed: float
    """What is let pass."""
    noise_over_signal: float | None
    """Error over the size of what was learned; None where nothing was."""

    @property
    def passed(self) -> bool:
        """Whether it holds what it should."""
        return self.error <= self.allowed


@dataclass(frozen=True, kw_only=True)
class Expected:
    """One tensor as it should be."""

    name: str
    """Its name in transformers."""
    before: Tensor | None
    """In the base, float32; None where nothing was learned in it."""
    after: Tensor
    """In the model, float32."""


@torch.no_grad()
def expected_weights(
    model: PreTrainedModel | PeftModel, drawn_back: DrawnBack = NOTHING_DRAWN_BACK
) -> Iterator[Expected]:
    """Every tensor of a model as an export of it should hold it, one at a time.

    Raises:
        MergeError: if no single weight equals the adapter.
    """
    if not isinstance(model, PeftModel):
        for name, weight in model.named_parameters():
            yield Expected(name=name, before=None, after=weight.detach().float())
        return
    inside: list[str] = []
    for layer in tuned_layers(model, drawn_back):
        inside.append(f"{layer.name}.")
        yield Expected(name=f"{layer.name}.weight", before=layer.before.float(), after=layer.after.float())
        if layer.bias is not None:
            yield Expected(name=f"{layer.name}.bias", before=None, after=layer.bias.float())
    base = model.get_base_model()
    for name, module in base.named_modules():
        if isinstance(module, ModulesToSaveWrapper):
            inside.append(f"{name}.")
            trained = dict(module.modules_to_save[active_adapter(model)].named_parameters())
            for key, original in module.original_module.named_parameters():
                before, after = original.detach().float(), trained[key].detach().float()
                yield Expected(name=f"{name}.{key}", before=before, after=after)
    for name, weight in base.named_parameters():
        if not name.startswith(tuple(inside)):
            yield Expected(name=name, before=None, after=weight.detach().float())


def check_merged(
    folder: Path, model: PreTrainedModel | PeftModel, drawn_back: DrawnBack = NOTHING_DRAWN_BACK
) -> list[WeightCheck]:
    """Compare a folder of safetensors files with the model it was made of."""
    places = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            places |= dict.fromkeys(opened.keys(), file)
    checks = []
    for expected in expected_weights(model, drawn_back):
        if expected.name not in places:
            checks.append(_missing(expected))
            continue
        with safe_open(places[expected.name], framework="pt") as opened:
            found = opened.get_tensor(expected.name)
        rounded = expected.after.to(found.dtype).float()
        checks.append(_compared(expected, expected.after.cpu(), found.float(), rounded.cpu()))
    return checks


def check_gguf(
    file: Path, model: PreTrainedModel | PeftModel, drawn_back: DrawnBack = NOTHING_DRAWN_BACK
) -> list[WeightCheck]:
    """Compare a GGUF file with the model it was made of."""
    config: Any = model.config
    shape = shape_of(config)
    names = names_of(shape, config)
    stored = {tensor.name: tensor for tensor in GGUFReader(file).tensors}
    checks = []
    for expected in expected_weights(model, drawn_back):
        tensor = stored.get(gguf_name(names, expected.name) or "")
        if tensor is None:
            checks.append(_missing(expected))
            continue
        wanted = shape.stored(expected.name, expected.after.cpu(), config).contiguous()
        found = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy()).float()
        try:
            rounded = torch.from_numpy(
                dequantize(quantize(wanted.numpy(), tensor.tensor_type), tensor.tensor_type).copy()
            )
        except NotImplementedError:  # the package reads more kinds than it writes
            rounded = None
        checks.append(_compared(expected, wanted, found.reshape(wanted.shape), rounded))
    return checks


def check_lora(folder: Path, model: PeftModel, drawn_back: DrawnBack, limit: float) -> list[WeightCheck]:
    """Compare a LoRA in PEFT's format with the change it was made of."""
    config = read_json(folder / "adapter_config.json")
    factors: dict[str, Tensor] = {}
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as opened:
        factors = {name: opened.get_tensor(name).float() for name in opened.keys()}  # noqa: SIM118
    changes = {}
    for layer in tuned_layers(model, drawn_back):
        prefix = f"base_model.model.{layer.name}"
        down, up = factors.get(f"{prefix}.lora_A.weight"), factors.get(f"{prefix}.lora_B.weight")
        change = (layer.after - layer.before).float().cpu()
        found = None if down is None or up is None else config["lora_alpha"] / config["r"] * (up @ down)
        changes[layer.name] = (change.T if layer.is_transposed else change, found, layer.before.norm().item())
    return _lost(changes, limit)


def check_gguf_lora(file: Path, model: PeftModel, drawn_back: DrawnBack, limit: float) -> list[WeightCheck]:
    """Compare a LoRA in GGUF with the change it was made of."""
    reader = GGUFReader(file)
    config: Any = model.config
    shape = shape_of(config)
    names = names_of(shape, config)
    stored = {tensor.name: torch.from_numpy(tensor.data.copy()).float() for tensor in reader.tensors}
    field = reader.get_field("adapter.lora.alpha")
    alpha = 0.0 if field is None else float(field.contents())
    changes = {}
    for layer in tuned_layers(model, drawn_back):
        name = f"{layer.name}.weight"
        theirs = gguf_name(names, name)
        down, up = stored.get(f"{theirs}.lora_a"), stored.get(f"{theirs}.lora_b")
        change = (layer.after - layer.before).float().cpu()
        change = shape.stored_output(name, (change.T if layer.is_transposed else change).contiguous(), config)
        found = None if down is None or up is None else (alpha / len(down) if alpha else 1.0) * (up @ down)
        changes[layer.name] = (change, found, layer.before.norm().item())
    return _lost(changes, limit)


def _lost(changes: Mapping[str, tuple[Tensor, Tensor | None, float]], limit: float) -> list[WeightCheck]:
    checks = []
    for name, (change, found, size_of_weight) in changes.items():
        missing = (change if found is None else change - found).norm().item()
        size = change.norm().item()
        noise = 1e-5 * size_of_weight  # the rounding of W' - W0 in float32
        lost = 0.0 if missing <= noise else (missing / max(size, noise)) ** 2
        checks.append(
            WeightCheck(
                name=name, error=lost, allowed=limit, noise_over_signal=missing / size if size > noise else None
            )
        )
    return checks


def _missing(expected: Expected) -> WeightCheck:
    return WeightCheck(name=expected.name, error=float("inf"), allowed=0.0, noise_over_signal=None)


def _compared(expected: Expected, wanted: Tensor, found: Tensor, rounded: Tensor | None) -> WeightCheck:
    size = wanted.norm().item() or 1.0
    wrong = (found - wanted).norm().item() if found.shape == wanted.shape else float("inf")
    own = _UNKNOWN_QUANTIZER if rounded is None else (rounded - wanted).norm().item() / size
    learned = 0.0 if expected.before is None else (expected.after - expected.before).norm().item()
    return WeightCheck(
        name=expected.name,
        error=wrong / size,
        allowed=_SLACK * own + _SUM_ROUNDING,
        noise_over_signal=wrong / learned if learned > _SUM_ROUNDING * size else None,
    )
