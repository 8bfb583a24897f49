"""The dial: a learned change scaled by a number after training, W(s) = W0 + s (W' - W0), without any data.

s = 0 is the base and s = 1 what was trained. Each kind of layer is scaled by values of its own where such values give
that weight exactly, so that the point that is scored is the point that can be saved as an adapter of the same kind:

| layer | what is scaled |
|---|---|
| LoRA, rank-stabilised LoRA and kin | B, with its bias; A for MiCA, whose B comes from the base |
| AdaLoRA, LoHa, LoKr, VeRA | E, one factor of a product, lambda_b |
| IA3 | l' = 1 + s (l - 1) |
| DoRA on a linear layer | B and the magnitude, see `_dora_values` |
| SECURA | D, *inside* the norm: W' = norm(W_ref, s D), with the folds; and the trained bias |
| a module saved whole, trained tokens | their values, from the base's own |

All other methods (OFT, BOFT, OSF, ...) are merged, and the merged weight is drawn back to the base's. That holds each
adapted weight twice for as long as it lasts, and can be saved as a whole model only.

Scaling inside a norm is not W0 + s (W' - W0): a bounded change saturates, so half of D is more than half the move.

Source:
    weight interpolation: WiSE-FT, arXiv:2109.01903, where both models are whole; PEFT-Arena, arXiv:2605.28819, for
    OFT. DoRA's exact form is secura's own.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.adalora.layer import AdaLoraLayer
from peft.tuners.ia3.layer import IA3Layer
from peft.tuners.loha.layer import LoHaLayer
from peft.tuners.lokr.layer import LoKrLayer
from peft.tuners.lora.dora import DoraLinearLayer
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.lora.variants import ALoraLinearVariant, DoraLinearVariant, MiCAEmbeddingVariant, MiCALinearVariant
from peft.tuners.trainable_tokens.layer import TrainableTokensLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.tuners.vera.layer import VeraLayer
from peft.utils import ModulesToSaveWrapper
from peft.utils.integrations import dequantize_module_weight
from peft.utils.other import transpose
from torch import Tensor, nn

from secura.adapters.offloading import is_offloaded
from secura.adapters.secura.layer import SecuraLayer
from secura.errors import ConfigError, MergeError

Scale = float | Mapping[str, float]
"""One number for the whole change, or one a layer by its name in the base; a layer left out keeps all of its change."""

NewValues = list[tuple[Tensor, Tensor]]
"""Values of an adapter, each with what is to stand in its place."""

_PROPORTIONAL: tuple[tuple[type[BaseTunerLayer], tuple[str, ...]], ...] = (
    (AdaLoraLayer, ("lora_E",)),  # before LoRA, whose layer it extends
    (LoraLayer, ("lora_B", "lora_embedding_B")),
    (LoHaLayer, ("hada_w1_b",)),
    (LoKrLayer, ("lokr_w1", "lokr_w1_b")),
    (VeraLayer, ("vera_lambda_b",)),
)
"""Where a layer keeps a factor that its change is proportional to."""

_CHANGES_THE_BASE = ("pissa", "corda", "olora", "loftq", "lora_ga", "kasa")
"""Starts of a LoRA that write into the base weight, so that the base is no longer there to go back to."""


@contextmanager
def scaled(
    model: PeftModel,
    scale: Scale,
    *,
    adapter_name: str | None = None,
    merged: bool = False,
    base_values: Mapping[str, Tensor] | None = None,
) -> Iterator[bool]:
    """The model with its change scaled, for as long as the block lasts; afterwards it is as before, to the bit.

    Args:
        model: with its adapter, not merged. Other adapters are left as they are.
        scale: s, from 0; above 1 the change is made larger. See `Scale` for one a layer.
        adapter_name: which adapter; the active one if left out.
        merged: whether to write the point into the base weights, as an export needs it.
        base_values: the base's own biases by name, where the adapter has trained them; see `values_to_be_trained`.

    Yields:
        Whether the point stands in the base weights, which are then asked without any adapter.

    Raises:
        ConfigError: for a scale below 0 or of no layer, or an adapter that cannot be scaled.
        MergeError: if a layer is merged already, or cannot be.
    """
    name = _adapter(model, adapter_name)
    layers, scale_of = _to_scale(model, name, scale, base_values)
    by_weights = merged or any(_new_values(layer, name, 0.5) is None for _, layer in layers)
    with ExitStack() as undo, torch.no_grad():
        for layer_name, layer in layers:
            left = _scale_values(layer, name, scale_of(layer_name), undo)
            if by_weights and not isinstance(layer, ModulesToSaveWrapper):
                _merge(layer_name, layer, name, left, undo)
        _scale_biases(model, base_values or {}, scale_of, undo)
        yield by_weights


def scale_(
    model: PeftModel,
    scale: Scale,
    *,
    adapter_name: str | None = None,
    base_values: Mapping[str, Tensor] | None = None,
) -> dict[str, float]:
    """Scale an adapter's own values for good, so that whatever is written of it afterwards is that point.

    Args:
        model: with its adapter, not merged.
        scale: s, as for `scaled`.
        adapter_name: which adapter; the active one if left out.
        base_values: as for `scaled`.

    Returns:
        What is left to whoever writes the weights: the layers that no value of the adapter scales, by name, each with
        the s of W0 + s (W' - W0).

    Raises:
        ConfigError: for a scale below 0 or of no layer, or an adapter that cannot be scaled.
        MergeError: if a layer is merged already.
    """
    name = _adapter(model, adapter_name)
    layers, scale_of = _to_scale(model, name, scale, base_values)
    with ExitStack() as undo, torch.no_grad():
        left = {layer_name: _scale_values(layer, name, scale_of(layer_name), undo) for layer_name, layer in layers}
        _scale_biases(model, base_values or {}, scale_of, undo)
        undo.pop_all()  # only what goes wrong half-way is put back
    return {layer_name: factor for layer_name, factor in left.items() if factor != 1}


def layers_without_closed_form(model: PeftModel, adapter_name: str | None = None) -> list[str]:
    """Names of the layers whose scaled change no adapter of their kind holds; empty where it can be saved as one."""
    name = _adapter(model, adapter_name)
    return [layer_name for layer_name, layer in _layers(model, name) if _new_values(layer, name, 0.5) is None]


def values_to_be_trained(model: nn.Module) -> dict[str, Tensor]:
    """Copies of a base's biases by name, to be taken before an adapter that trains them too overwrites them."""
    return {
        name: parameter.detach().clone()
        for name, parameter in model.named_parameters()
        if name.rpartition(".")[2] == "bias"
    }


def draw_back_(model: nn.Module, base: Mapping[str, Tensor], scale: Scale) -> None:
    """Overwrite a fully trained model by W0 + s (W - W0), parameter by parameter.

    One parameter at a time is held in float32 besides the two models. Buffers are left as they are.

    Args:
        model: what was trained; its parameters are overwritten.
        base: the base's state dict, on any device.
        scale: s; by names of modules for one a module.

    Raises:
        ConfigError: if the two models are not of one shape.
    """
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        if name not in base:
            raise ConfigError(f"the tuned model has {name} and the base has not; give the base that it was made from.")
        if base[name].shape != parameter.shape:
            raise ConfigError(
                f"{name} is {_shape(parameter)} in the tuned model and {_shape(base[name])} in the base, so there is "
                "nothing between the two; give the base that it was made from."
            )
    scale_of = _scale_of(scale, [name.rpartition(".")[0] for name in parameters])
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(_between(base[name], parameter, scale_of(name.rpartition(".")[0])))


def merged_state(model: PeftModel, adapter_name: str | None = None) -> dict[str, Tensor]:
    """The state dict of the base model alone, while `scaled(..., merged=True)` holds."""
    name = _adapter(model, adapter_name)
    inner = model.get_base_model()
    state: dict[str, Tensor] = {}
    layers = {_plain(layer_name): layer for layer_name, layer in inner.named_modules() if _is_layer(layer)}
    for key, value in inner.state_dict(keep_vars=False).items():
        owner = next((one for one in layers if key.startswith(f"{one}.")), None)
        if owner is None:
            state[key] = value
    for layer_name, layer in layers.items():
        if isinstance(layer, ModulesToSaveWrapper):
            source: nn.Module = layer.original_module
            if name in layer.modules_to_save:
                source = layer.modules_to_save[name]
        elif isinstance(layer, BaseTunerLayer):
            source = layer.get_base_layer()
        else:
            continue
        state.update({f"{layer_name}.{key}": value for key, value in source.state_dict().items()})
    return state


# ---------------------------------------------------------------------- what there is to scale


def _to_scale(
    model: PeftModel, name: str, scale: Scale, base_values: Mapping[str, Tensor] | None
) -> tuple[list[tuple[str, Any]], Callable[[str], float]]:
    """The layers with their names, and each one's scale; refuses what cannot be scaled."""
    layers = _layers(model, name)
    scale_of = _scale_of(scale, [layer_name for layer_name, _ in layers])
    _refuse(model, name, layers, base_values)
    return layers, scale_of


def _adapter(model: PeftModel, adapter_name: str | None) -> str:
    """The adapter that is meant: the active one, the first of several."""
    active = model.active_adapter
    return adapter_name or (active if isinstance(active, str) else active[0])


def _is_layer(module: nn.Module) -> bool:
    return isinstance(module, (BaseTunerLayer, ModulesToSaveWrapper))


def _layers(model: PeftModel, adapter_name: str) -> list[tuple[str, Any]]:
    """Each layer that carries the adapter, by its name in the base."""
    return [
        (_plain(name.removeprefix("base_model.model.")), module)
        for name, module in model.named_modules()
        if _is_layer(module) and adapter_name in _adapters_of(module)
    ]


def _adapters_of(layer: Any) -> set[str]:
    if isinstance(layer, ModulesToSaveWrapper):
        return set(layer.modules_to_save)
    if isinstance(layer, TrainableTokensLayer) and layer.tied_adapter is not None:
        return set()  # it has no values of its own
    return set(layer._all_available_adapter_names())


def _plain(name: str) -> str:
    """A module's name in the base, which knows of no layer wrapped around another."""
    return name.replace(".base_layer", "").removesuffix(".token_adapter")


def _scale_of(scale: Scale, names: Sequence[str]) -> Callable[[str], float]:
    given = scale.values() if isinstance(scale, Mapping) else [scale]
    for value in given:
        if not 0 <= value < float("inf"):
            raise ConfigError(f"the dial is {value}; it is a number from 0, the base, and 1 is all that was learned.")
    if not isinstance(scale, Mapping):
        return lambda _: float(scale)
    for name in scale:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"; the nearest that has is {near[0]}" if near else ""
            raise ConfigError(f"layer {name} has learned nothing that could be scaled{hint}.")
    return lambda name: float(scale.get(name, 1.0))


def _refuse(
    model: PeftModel, name: str, layers: Sequence[tuple[str, Any]], base_values: Mapping[str, Tensor] | None
) -> None:
    """What cannot be scaled at all."""
    config: Any = model.peft_config.get(name)
    if config is None:
        raise ConfigError(f"there is no adapter {name!r}; known are {', '.join(map(repr, model.peft_config))}.")
    if not layers:
        raise ConfigError(
            f"a {config.peft_type} adapter changes what a model reads, not its weights, so nothing can be scaled."
        )
    start = getattr(config, "init_lora_weights", None)
    if isinstance(start, str) and start.lower().startswith(_CHANGES_THE_BASE):
        raise ConfigError(
            f"this LoRA was started by {start}, which writes into the base weights, so the base is not there to go "
            "back to; save it as a plain LoRA with save_pretrained(path_initial_model_for_weight_conversion=...)."
        )
    bias = getattr(config, "bias", "none")
    if bias not in ("none", None, False, True) and base_values is None:
        raise ConfigError(
            f"the adapter was trained with bias={bias!r} and has overwritten the base's own biases; scale it from its "
            "saved folder, so that they can be kept."
        )
    for layer_name, layer in layers:
        if getattr(layer, "merged", False):
            raise MergeError(f"layer {layer_name} is merged; call unmerge_adapter() before its change is scaled.")


def _scale_biases(
    model: PeftModel, base_values: Mapping[str, Tensor], scale_of: Callable[[str], float], undo: ExitStack
) -> None:
    """Scale the biases that an adapter has trained in place of the base's own."""
    for name, parameter in model.get_base_model().named_parameters():
        plain = _plain(name)
        if plain in base_values and ".modules_to_save." not in name:
            factor = scale_of(plain.rpartition(".")[0])
            _write(parameter, _between(base_values[plain], parameter, factor), undo)


# ---------------------------------------------------------------------- by values of the adapter


def _scale_values(layer: Any, adapter_name: str, factor: float, undo: ExitStack) -> float:
    """Scale a layer by values of the adapter; what its weight is still to be drawn back by."""
    values = _new_values(layer, adapter_name, factor)
    if isinstance(layer, SecuraLayer):
        _scale_secura(layer, adapter_name, factor, undo)
    if factor != 1:  # at 1 not even rounding may change anything
        for old, new in values or []:
            _write(old, new, undo)
    return factor if values is None else 1.0


def _new_values(layer: Any, adapter_name: str, factor: float) -> NewValues | None:
    """The adapter's values at a point; None where no values of the adapter give that point."""
    if isinstance(layer, SecuraLayer):
        return []  # scaled by a setting, see `_scale_secura`
    if isinstance(layer, ModulesToSaveWrapper):
        return _drawn_back(layer.modules_to_save[adapter_name], layer.original_module, factor)
    if isinstance(layer, TrainableTokensLayer):
        trained, before = layer.trainable_tokens_delta[adapter_name], layer.trainable_tokens_original[adapter_name]
        assert before is not None
        return [(trained, _between(before, trained, factor))]
    if isinstance(layer, IA3Layer):
        trained = layer.ia3_l[adapter_name]
        return [(trained, _between(torch.ones_like(trained), trained, factor))]
    variant = getattr(layer, "lora_variant", {}).get(adapter_name) if isinstance(layer, LoraLayer) else None
    if type(variant) is DoraLinearVariant:
        return _dora_values(layer, adapter_name, factor)
    if isinstance(variant, (MiCALinearVariant, MiCAEmbeddingVariant)):
        return _proportional(layer, ("lora_A", "lora_embedding_A"), adapter_name, factor)
    if variant is not None and not isinstance(variant, ALoraLinearVariant):
        return None
    for kind, containers in _PROPORTIONAL:
        if isinstance(layer, kind):
            return _proportional(layer, containers, adapter_name, factor)
    return None


def _proportional(layer: Any, containers: Sequence[str], adapter_name: str, factor: float) -> NewValues | None:
    for container in containers:
        held = getattr(layer, container, {})
        if adapter_name in held:
            factors = held[adapter_name]
            values = list(factors.parameters()) if isinstance(factors, nn.Module) else [factors]
            return [(value, value * factor) for value in values]
    return None


def _dora_values(layer: Any, adapter_name: str, factor: float) -> NewValues:
    """B and the magnitude with which DoRA's own formula gives the point, exactly.

    W' = g (W0 + D)              D = scaling B A,  g = m / |W0 + D|, one for each output
    W0 + s (W' - W0) = h (W0 + D')   h = 1 - s + s g,  D' = (s g / h) D,  so  B' = (s g / h) B,  m' = h |W0 + D'|
    """
    part: DoraLinearLayer = layer.lora_magnitude_vector[adapter_name]
    factor_a, factor_b, scaling = layer.lora_A[adapter_name], layer.lora_B[adapter_name], layer.scaling[adapter_name]
    weight = dequantize_module_weight(layer.get_base_layer()).to(factor_b.weight.dtype)
    learned = part.get_lora_weight(factor_a, factor_b).detach()
    gain = part.weight / part.get_weight_norm(weight, learned, scaling)
    mix = 1 - factor + factor * gain
    rows = torch.where(mix == 0, 0.0, factor * gain / mix)
    drawn = transpose(weight, part.fan_in_fan_out) + scaling * rows[:, None] * learned
    norm = torch.linalg.norm(drawn, dim=1)
    return [(factor_b.weight, rows[:, None] * factor_b.weight), (part.weight, mix * norm)]


def _scale_secura(layer: SecuraLayer, adapter_name: str, factor: float, undo: ExitStack) -> None:
    if factor == 1:
        return
    before = layer.secura_settings[adapter_name].scale
    reference = None
    if adapter_name in layer.secura_reference and adapter_name not in layer._stale_references:
        reference = layer.secura_reference[adapter_name]
    layer.set_change_scale(adapter_name, factor * before)
    bias = layer._change(adapter_name).bias

    def put_back() -> None:
        layer.set_change_scale(adapter_name, before)
        if reference is not None:
            layer.secura_reference[adapter_name] = reference
            layer._stale_references.discard(adapter_name)

    undo.callback(put_back)
    if bias is not None:
        _write(bias, bias * factor, undo)


# ---------------------------------------------------------------------- by weights


def _merge(layer_name: str, layer: Any, adapter_name: str, factor: float, undo: ExitStack) -> None:
    """Merge a layer, and draw the merged weights back to the base's by `factor`."""
    if isinstance(layer, SecuraLayer):  # which keeps the original tensors itself
        layer.merge(adapter_names=[adapter_name])
        undo.callback(layer.unmerge)
        return
    base = layer.get_base_layer()
    if is_offloaded(base) or not all(weight.is_floating_point() for weight in base.parameters()):
        raise MergeError(
            f"the change of layer {layer_name} can be scaled by its weights alone, and they are quantized or "
            "offloaded; load the base whole and unquantized."
        )
    kept = [(weight, weight.data, weight.detach().clone()) for weight in base.parameters()]

    def put_back() -> None:
        layer.merged_adapters.clear()
        for weight, place, before in kept:
            weight.data = place.copy_(before)

    undo.callback(put_back)
    try:
        layer.merge(adapter_names=[adapter_name])
    except (ValueError, TypeError, RuntimeError, AttributeError) as problem:
        reason = " ".join(str(problem).split())[:200]
        raise MergeError(
            f"the change of layer {layer_name} cannot be scaled: its method neither is proportional to a value of its "
            f"own nor can be merged ({reason})."
        ) from problem
    for weight, _, before in kept:
        weight.data = _between(before, weight.data, factor)


def _drawn_back(trained: nn.Module, before: nn.Module, factor: float) -> NewValues:
    base = dict(before.named_parameters())
    return [
        (parameter, _between(base[name], parameter, factor))
        for name, parameter in trained.named_parameters()
        if name in base
    ]


def _between(before: Tensor, after: Tensor, factor: float) -> Tensor:
    """W0 + s (W - W0), in the type of W; exact at both ends."""
    wide = torch.promote_types(after.dtype, torch.float32)
    return torch.lerp(before.detach().to(after.device, wide), after.detach().to(wide), factor).to(after.dtype)


def _write(place: Tensor, value: Tensor, undo: ExitStack) -> None:
    before = place.detach().clone()
    undo.callback(lambda: place.data.copy_(before))
    place.data.copy_(value)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))
