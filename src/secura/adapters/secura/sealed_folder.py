"""The seal of an adapter's folder, checked and made from its files alone; no base is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file, save_file
from torch import Tensor

from secura.adapters.secura.config import SecuraConfig
from secura.adapters.secura.ledger import folds_in
from secura.adapters.secura.sealing import (
    UNKNOWN_BASE,
    by_layer,
    check_config_seal,
    check_tensors,
    make_seal,
    plain_key,
    refuse_non_finite,
    seal_as_tensor,
    seal_from_tensor,
    sealed_settings,
    tensor_digest,
)
from secura.errors import ConfigError
from secura.json_text import read_json
from secura.whole_files import write_file, write_json

_FACTORS = {"cabr": ("inner", "outer"), "cur": ("core",), "low_rank": ("up", "down")}
_FOLDED = {"cabr": ("core",), "cur": ("core",), "low_rank": ("up", "down")}


def is_sealed(folder: Path) -> bool:
    """Whether adapter_config.json holds a seal.

    Raises:
        ConfigError: if it cannot be read, or is not as such files are.
    """
    return "seal" in (_config(folder).saved or {})


def check_seal(folder: Path) -> None:
    """Hold the files of a sealed adapter against its seal.

    Raises:
        ConfigError: naming the first thing that differs.
    """
    config, tensors = _config(folder), _tensors(folder)
    check_config_seal(config)
    assert config.saved is not None
    wholes = [seal_from_tensor(tensors.pop(key)) for key in list(tensors) if key.endswith(".secura_seal")]
    if len(wholes) != 1:
        raise ConfigError("the seal was taken out of the adapter's weights file; take the files as they were saved.")
    seal = config.saved["seal"]
    # Adapters that were sealed before their base was sampled do not seal modules beside the layers.
    only_layers = "base" not in config.saved
    sealed = {key: each for key, each in tensors.items() if not only_layers or ".secura_" in key}
    digests = {key: tensor_digest(each, as_in=wholes[0]) for key, each in sealed.items()}
    check_tensors(sealed_settings(config), digests, wholes[0], seal)


def seal_folder(folder: Path) -> None:
    """Seal an adapter that was saved without a seal, once its two files are found to agree.

    Its layers, folds, indices, scales and fingerprints must be the same in both, and every tensor of the shape that
    the settings say. Whether it fits its base is found out when it is loaded.

    Raises:
        ConfigError: naming the first thing that is wrong; nothing is written then.
        SecuraError: if a file cannot be written; what was there stays.
    """
    config, written = _config(folder), load_file(folder / SAFETENSORS_WEIGHTS_NAME)
    broken_off = [seal_from_tensor(written.pop(key)) for key in list(written) if key.endswith(".secura_seal")]
    saved = {"layers": {}, "folds": [], **(config.saved or {})}
    _check_layers(config, {plain_key(key): each for key, each in written.items()}, saved)
    first = next(key.partition(".secura_")[0] for key in written if ".secura_" in key)
    if not any(key.endswith(".secura_base") for key in written):
        written[f"{first}.secura_base"] = UNKNOWN_BASE
    state = {"layers": saved["layers"], "folds": saved["folds"], "base": saved.get("base")}
    as_in = {"as_in": broken_off[0]} if broken_off else {}
    digests = {plain_key(key): tensor_digest(each, **as_in) for key, each in written.items()}
    seal = make_seal(sealed_settings(config), digests, state)
    if broken_off and broken_off != [seal["whole"]]:
        raise ConfigError(
            "the seal was taken out of the adapter's adapter_config.json, and its weights are not those that were "
            "sealed; take the files as they were saved."
        )
    written[f"{first}.secura_seal"] = seal_as_tensor(seal["whole"])
    write_file(
        folder / SAFETENSORS_WEIGHTS_NAME, lambda partial: save_file(written, partial, metadata={"format": "pt"})
    )
    content = read_json(folder / CONFIG_NAME)
    write_json(folder / CONFIG_NAME, {**content, "saved": {**state, "seal": seal}})


def _config(folder: Path) -> SecuraConfig:
    config = SecuraConfig.from_pretrained(str(folder))
    assert isinstance(config, SecuraConfig)
    return config


def _tensors(folder: Path) -> dict[str, Tensor]:
    return {plain_key(key): each for key, each in load_file(folder / SAFETENSORS_WEIGHTS_NAME).items()}


def _check_layers(config: SecuraConfig, tensors: Mapping[str, Tensor], saved: Mapping[str, Any]) -> None:
    """Refuse where the two files do not say the same of each layer."""
    refuse_non_finite(tensors)
    for key in tensors:
        if ".secura_" not in key and not any(f".{module}." in f".{key}" for module in config.modules_to_save or ()):
            raise ConfigError(f"the adapter's weights file holds {key}, which is no tensor of its own.")
    layers = by_layer(tensors)
    odd = sorted(layers.keys() ^ saved["layers"].keys())
    if odd or not layers:
        which = f"layer {odd[0]} is in one of its files alone" if odd else "it holds no layer"
        raise ConfigError(f"{which}; take the files as they were saved.")
    for layer, own in layers.items():
        _check_layer(config, layer, own, saved)


def _check_layer(config: SecuraConfig, layer: str, own: Mapping[str, Tensor], saved: Mapping[str, Any]) -> None:
    shapes = _shapes(config, layer, own, saved["folds"])
    if config.output_bias:
        shapes["change.bias"] = own["change.bias"].shape if "change.bias" in own else torch.Size([0])
    beside = {"columns", "rows", "fingerprint", "scale", "base"}
    for name in sorted(shapes.keys() | (own.keys() - beside)):
        if name not in own or name not in shapes or own[name].shape != shapes[name]:
            found = tuple(own[name].shape) if name in own else "missing"
            wanted = tuple(shapes[name]) if name in shapes else "none of it"
            raise ConfigError(f"{layer}.secura_{name} is {found}, but the settings say {wanted}; copy the files again.")
    record = saved["layers"][layer]
    for name in sorted(record.keys() | (own.keys() & {"columns", "rows", "fingerprint", "scale"})):
        numbers = own[name].tolist() if name in own else None
        said = [float(part) if name == "scale" else int(part) for part in record.get(name, "").split()]
        if numbers != said:
            raise ConfigError(
                f"{layer}.secura_{name} is not what adapter_config.json says of it; copy the files again."
            )


def _shapes(config: SecuraConfig, layer: str, own: Mapping[str, Tensor], folds: list[str]) -> dict[str, torch.Size]:
    """What each trained and folded tensor of a layer is to be, as far as the settings and its indices say."""
    names = _FACTORS[config.change]
    first = own.get(f"change.{names[0]}")
    if first is None or first.dim() != 2:
        raise ConfigError(f"{layer} lacks secura_change.{names[0]} of two dimensions; copy the files again.")
    if config.change == "low_rank":
        r, width = own["change.up"].shape[1], own["change.down"].shape[1] if "change.down" in own else 0
        one = {"up": torch.Size([own["change.up"].shape[0], r]), "down": torch.Size([r, width])}
        shapes = {f"change.{name}": shape for name, shape in one.items()}
    else:
        r, inner_r = first.shape
        shapes = {"change.core": torch.Size([r, r])}
        if config.change == "cabr":
            shapes = {"change.inner": torch.Size([r, inner_r]), "change.outer": torch.Size([inner_r, r])}
        one = {"core": torch.Size([r, r])}
    asked = config.rank_pattern.get(get_pattern_key(list(config.rank_pattern), layer), config.r)
    if asked is not None and asked != r:
        raise ConfigError(f"{layer} is of rank {r}, but the settings say {asked}; copy the files again.")
    for key in folds:
        count = folds_in(key)
        for name in _FOLDED[config.change]:
            shapes[f"folds.{key}.{name}"] = torch.Size([count, *one[name]]) if count > 1 else one[name]
    return shapes
