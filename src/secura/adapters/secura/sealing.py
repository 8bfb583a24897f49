"""The seal of a saved adapter: what it held when it was saved, so that nothing else is loaded in its name.

Every tensor has a digest of its type, its shape and its bits. One digest of all of these, and of the settings that
decide what the layers compute, lies in the weights file; adapter_config.json holds it too, with each part, so that
what differs can be named. It tells damage and mix-ups apart from what was saved; it is no signature.

The hash is XXH3 of 128 bits, and its digests begin with `xxh3:`. Seals of earlier versions hold SHA-256 digests,
which begin with nothing, and are compared as such.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, TypeVar

import torch
import xxhash
from torch import Tensor
from torch.distributed.tensor import DTensor

from secura.adapters.secura.ledger import folds_in
from secura.errors import ConfigError
from secura.numerics.finite import all_finite

SEALED_SETTINGS = (
    "change",
    "norm",
    "reference",
    "fold",
    "r",
    "inner_r",
    "tau",
    "floor",
    "scale",
    "alpha",
    "output_bias",
    "rank_pattern",
    "alpha_pattern",
)
"""What decides, beside its tensors and its base, what an adapter computes."""

_DIGITS = 32
"""Hexadecimal digits of a digest: all of XXH3's, and those kept of a SHA-256."""
_XXH3 = "xxh3:"
_FOLD_KEY = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?:[^.]+")
_LONGEST_UNSEALED_STACK = 100_000
"""Of folds: room for a stack is made before its weights are seen, and only a seal vouches for its length."""
_INDICES = re.compile(r"\d{1,9}+(?: \d{1,9}+)*+")  # possessive: a fifth of the time
_FINGERPRINT = re.compile(r"-?\d{1,20}+(?: -?\d{1,20}+){3}")
_LAYER_FORMS = {"columns": _INDICES, "rows": _INDICES, "fingerprint": _FINGERPRINT}


UNKNOWN_BASE = torch.zeros(4, dtype=torch.int64)
"""In place of the fingerprint of a base that was divided or not yet loaded."""

_PEFT_PREFIX = "base_model.model."

Value = TypeVar("Value")


def plain_key(key: str) -> str:
    """The name of a tensor without what PEFT, FSDP and torch.compile put before it."""
    return key.replace("_fsdp_wrapped_module.", "").removeprefix("_orig_mod.").removeprefix(_PEFT_PREFIX)


def by_layer(values: Mapping[str, Value]) -> dict[str, dict[str, Value]]:
    """What is known of adapter tensors, by layer and by what comes after `.secura_` in their keys; of no others."""
    found: dict[str, dict[str, Value]] = {}
    for key, value in values.items():
        layer, mark, name = plain_key(key).partition(".secura_")
        if mark:
            found.setdefault(layer, {})[name] = value
    return found


def tensor_digest(tensor: Tensor, *, as_in: str = _XXH3) -> str:
    """Type, shape, and a digest of the bits.

    Args:
        tensor: of any type and shape, on any device but meta.
        as_in: a digest, of this tensor or another, by whose hash this one is made.
    """
    held = tensor.cpu().contiguous()
    # Read where it lies: an adapter has hundreds of small tensors, and a NumPy view of each costs as much.
    raw = (ctypes.c_ubyte * held.nbytes).from_address(held.data_ptr()) if held.nbytes else b""
    return _form(held.dtype, held.shape) + _hash(raw, as_in)


def _hash(raw: Any, as_in: str) -> str:
    if _XXH3 in as_in:
        return _XXH3 + xxhash.xxh3_128_hexdigest(raw)
    return hashlib.sha256(raw).hexdigest()[:_DIGITS]


@lru_cache(maxsize=1024)
def _form(dtype: torch.dtype, shape: torch.Size) -> str:
    return f"{str(dtype).removeprefix('torch.')} {'x'.join(map(str, shape))} "


def was_changed(found: str, sealed: str) -> bool:
    """Whether a tensor has other bits than the one that was sealed; one of another type was cast, as loaders do."""
    return found != sealed and found.split(" ")[0] == sealed.split(" ")[0]


def can_be_sealed(tensors: Mapping[str, Tensor]) -> bool:
    """Whether this process holds each tensor whole."""
    return not any(tensor.is_meta or isinstance(tensor, DTensor) for tensor in tensors.values())


def make_seal(settings: Mapping[str, Any], tensors: Mapping[str, str], state: Mapping[str, Any]) -> dict[str, Any]:
    """What `saved["seal"]` holds.

    Args:
        settings: the values of `SEALED_SETTINGS`.
        tensors: the digest of each tensor, by its key.
        state: the rest of `saved`, its layers, folds and base.
    """
    whole = _whole_digest(settings, tensors, as_in=next(iter(tensors.values())))
    return {"settings": settings, "tensors": tensors, "whole": whole, "state": _state_digest(whole, state)}


def _whole_digest(settings: Mapping[str, Any], tensors: Mapping[str, str], *, as_in: str) -> str:
    """The digest that the weights file holds too."""
    if _XXH3 not in as_in:
        return _hash(_canonical([settings, sorted(tensors.items())]).encode(), as_in)
    keys = sorted(tensors)
    return _digest_of_texts([_canonical(settings), *keys, *map(tensors.__getitem__, keys)])


def _state_digest(whole: str, state: Mapping[str, Any]) -> str:
    if _XXH3 not in whole:
        return _hash(_canonical([whole, state]).encode(), whole)
    layers = ["\t".join((name, *map("=".join, sorted(own.items())))) for name, own in sorted(state["layers"].items())]
    rest = {name: value for name, value in state.items() if name != "layers"}
    return _digest_of_texts([whole, _canonical(rest), *layers])


def _digest_of_texts(texts: Iterable[str]) -> str:
    """Of short texts, which JSON would take longer to write than the hash to read."""
    return _hash("\n".join(texts).encode(), _XXH3)


def sealed_settings(config: Any) -> dict[str, Any]:
    """The settings of a config that are sealed, as JSON gives them back."""
    return json.loads(json.dumps({name: getattr(config, name) for name in SEALED_SETTINGS}, allow_nan=False))


def check_config_seal(config: Any) -> None:
    """Refuse a config that is not the one that was saved, before anything is built from it.

    Raises:
        ConfigError: naming the first thing that differs.
    """
    saved, seal = config.saved, config.saved["seal"]
    for name, value in sealed_settings(config).items():
        if _canonical(seal["settings"].get(name)) != _canonical(value):
            raise ConfigError(
                f"adapter_config.json says {name} is {value!r}, but the adapter was saved with "
                f"{seal['settings'].get(name)!r}; take the file as it was saved."
            )
    state = {name: value for name, value in saved.items() if name != "seal"}
    whole = _whole_digest(seal["settings"], seal["tensors"], as_in=seal["whole"])
    if whole != seal["whole"] or _state_digest(whole, state) != seal["state"]:
        raise ConfigError(
            "`saved` in adapter_config.json, its layers, folds, indices or digests, is not what was saved; take the "
            "file as it was saved."
        )


def check_tensors(
    settings: Mapping[str, Any], tensors: Mapping[str, str], whole: str, seal: dict[str, Any] | None
) -> None:
    """Refuse tensors that are not those that were sealed.

    Args:
        settings: the settings of the adapter they are loaded into.
        tensors: the digest of each, by its key.
        whole: the digest that came with them.
        seal: the seal in the config that came with them, where one did.

    Raises:
        ConfigError: naming the first thing that differs.
    """
    if seal is not None and seal["tensors"] != tensors:
        for key in (*seal["tensors"], *tensors):
            if tensors.get(key) != seal["tensors"].get(key):
                raise ConfigError(_differs(key, tensors.get(key), seal["tensors"].get(key)))
    if seal is not None and seal["whole"] != whole:
        raise ConfigError("the adapter's weights and its adapter_config.json were not saved together.")
    if seal is not None and _canonical(seal["settings"]) == _canonical(settings):
        return  # the config's own check has found that these are what the whole is of
    if whole != _whole_digest(settings, tensors, as_in=whole):
        raise ConfigError(
            "the adapter's tensors are not those that were saved, or were saved under other settings; take the files "
            "as they were saved."
        )


def _differs(key: str, found: str | None, sealed: str | None) -> str:
    if found is None:
        return f"the adapter was saved with {key}, which its weights file lacks; take the file as it was saved."
    if sealed is None:
        return f"the adapter's weights file holds {key}, with which it was not saved; take the file as it was saved."
    (found_type, found_shape, _), (type_, shape, _) = found.split(" "), sealed.split(" ")
    if (found_type, found_shape) != (type_, shape):
        was = f"was saved as {type_} of {shape or 'no dimension'}, and is {found_type} of {found_shape}"
        return f"{key} in the adapter {was}; take the file as it was saved."
    return f"{key} in the adapter is not what was saved; take the file as it was saved."


def check_saved(saved: object) -> None:
    """Refuse a `saved` that is not of the form in which adapters are saved.

    Raises:
        ConfigError: naming the part.
    """
    if not isinstance(saved, dict):
        raise _malformed("saved", saved, "an object")
    unknown = set(saved) - {"layers", "folds", "base", "seal", "unsealed"}
    if unknown:
        raise _malformed("saved", sorted(map(str, unknown))[0], "layers, folds, base and seal")
    if "base" in saved and ("seal" in saved) is ("unsealed" in saved):
        raise ConfigError("the seal was taken out of the adapter's adapter_config.json; take the file as it was saved.")
    base = saved.get("base")
    if base is not None and not (isinstance(base, str) and _FINGERPRINT.fullmatch(base) and _is_fingerprint(base)):
        raise _malformed("saved.base", base, "four numbers of 64 bits in a text")
    layers, folds, seal = saved.get("layers"), saved.get("folds", []), saved.get("seal")
    if not isinstance(layers, dict) or not layers:
        raise _malformed("saved.layers", layers, "an object with the layers that were saved")
    for name, record in layers.items():
        _check_layer(name, record)
    if not isinstance(folds, list) or not all(isinstance(key, str) and _is_fold_key(key) for key in folds):
        raise _malformed("saved.folds", folds, "a list of numbered tasks")
    if seal is None and any(folds_in(key) > _LONGEST_UNSEALED_STACK for key in folds):
        raise _malformed("saved.folds", folds, "folds in stacks that a seal vouches for")
    if len(set(folds)) < len(folds):
        raise _malformed("saved.folds", folds, "a list without repeats")
    if "seal" in saved:
        _check_seal_form(seal)


def _is_fold_key(key: str) -> bool:
    place = _FOLD_KEY.fullmatch(key)
    return place is not None and (place[2] is None or int(place[1]) < int(place[2]))


def _check_layer(layer: object, record: object) -> None:
    if not isinstance(record, dict):
        raise _malformed(_place_of(layer), record, "an object")
    for name, value in record.items():
        form = _LAYER_FORMS.get(name)
        if not isinstance(value, str) or (form is not None and not form.fullmatch(value)):
            raise _malformed(f"{_place_of(layer)}.{name}", value, "numbers in a text")
        if name == "fingerprint" and not _is_fingerprint(value):
            raise _malformed(f"{_place_of(layer)}.{name}", value, "numbers of 64 bits")
        if name == "scale" and not _is_scale(value):
            raise _malformed(f"{_place_of(layer)}.{name}", value, "a finite number in a text")
        if form is None and name != "scale":
            raise _malformed(_place_of(layer), name, "columns, rows, fingerprint and scale")


def _place_of(layer: object) -> str:
    return f"saved.layers[{str(layer)[:100]!r}]"


def _is_fingerprint(text: str) -> bool:
    return all(-(2**63) <= int(part) < 2**63 for part in text.split())


def _is_scale(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _check_seal_form(seal: object) -> None:
    if not isinstance(seal, dict) or set(seal) != {"settings", "tensors", "whole", "state"}:
        raise _malformed("saved.seal", seal, "settings, tensors, whole and state")
    for name, kind in (("settings", dict), ("tensors", dict), ("whole", str), ("state", str)):
        if not isinstance(seal[name], kind):
            raise _malformed(f"saved.seal.{name}", seal[name], "an object" if kind is dict else "a text")
    for key, digest in seal["tensors"].items():
        if not isinstance(digest, str) or digest.count(" ") != 2:
            raise _malformed(f"saved.seal.tensors[{key[:100]!r}]", digest, "a type, a shape and a digest")


def _malformed(place: str, value: object, wanted: str) -> ConfigError:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return ConfigError(f"{place} in adapter_config.json is {shown}, not {wanted}; take the file as it was saved.")


def refuse_non_finite(tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors of which one holds NaN or infinity.

    Raises:
        ConfigError: naming it.
    """
    for key, tensor in tensors.items():
        if not (tensor.is_meta or all_finite(tensor)):
            raise ConfigError(f"{key} in the adapter holds NaN or infinity, so its outputs would mean nothing.")


def seal_as_tensor(whole: str) -> Tensor:
    """The digest as the weights file holds it: its text, or the 16 bytes of a SHA-256; uint8."""
    written = whole.encode() if whole.startswith(_XXH3) else bytes.fromhex(whole)
    return torch.tensor(list(written), dtype=torch.uint8)


def seal_from_tensor(tensor: Tensor) -> str:
    """The inverse of `seal_as_tensor`.

    Raises:
        ConfigError: if the tensor is none that it has made.
    """
    if tensor.dtype == torch.uint8 and tensor.shape == (_DIGITS // 2,):
        return bytes(tensor.tolist()).hex()
    if tensor.dtype == torch.uint8 and tensor.shape == (len(_XXH3) + _DIGITS,):
        text = bytes(tensor.tolist()).decode("latin-1")
        if text.startswith(_XXH3):
            return text
    raise ConfigError("the seal in the adapter's weights file is no seal; take the file as it was saved.")


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
