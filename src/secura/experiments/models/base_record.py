"""Which base model a result was made for: its record beside the result, and the check against another model.

The fingerprint is a checksum of the model's shapes and of a sample of each weight. It is also kept for the
weights rounded to 16 bits, so that a base is recognised in whatever dtype it was loaded, as the fingerprints
of adapted weights are (`secura.adapters.fingerprint`).
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from secura.errors import BaseMismatchError, ConfigError
from secura.experiments.files import BASE_RECORD
from secura.experiments.settings.run import ModelConfig
from secura.json_text import read_json

_SAMPLED_WEIGHTS = 64
"""Values of each tensor that enter the fingerprint: enough to tell two checkpoints apart. An adapter's own sample of
its base (`secura.adapters.base_sample`) is another; the records of finished runs and their cached scores go by this."""


@dataclass(frozen=True, kw_only=True)
class BaseFingerprint:
    """Checksums of one model, as SHA-256 in hexadecimal digits."""

    exact: str
    """Of the weights as they are in memory."""
    in_bfloat16: str
    """Of the weights rounded to bfloat16."""
    in_float16: str
    """Of the weights rounded to float16."""

    def fits(self, record: dict[str, Any]) -> bool:
        """Whether a record is of this model, in this dtype or in another.

        Equal roundings alone prove nothing: two models that differ by little round alike. So one side's
        exact weights must equal the other's, as they are or rounded.
        """
        theirs = [record.get(key) for key in ("fingerprint", "in_bfloat16", "in_float16")]
        return theirs[0] in (self.exact, self.in_bfloat16, self.in_float16) or self.exact in theirs


def base_fingerprint(model: nn.Module) -> BaseFingerprint:
    """Take the fingerprint of a model."""
    samples = {name: (tuple(weight.shape), _sample(weight)) for name, weight in sorted(model.state_dict().items())}

    def digest(rounded: Callable[[Tensor], Tensor]) -> str:
        found = hashlib.sha256()
        for name, (shape, sample) in samples.items():
            found.update(f"{name} {shape}".encode())
            found.update(rounded(sample).double().numpy().tobytes())
        return found.hexdigest()

    return BaseFingerprint(
        exact=digest(lambda sample: sample),
        in_bfloat16=digest(lambda sample: sample.bfloat16() if sample.is_floating_point() else sample),
        in_float16=digest(lambda sample: sample.half() if sample.is_floating_point() else sample),
    )


def _sample(weight: Tensor) -> Tensor:
    flat = weight.detach().flatten()
    return flat[:: max(1, flat.numel() // _SAMPLED_WEIGHTS)].cpu()


def read_base_record(folder: Path) -> dict[str, Any]:
    """The record in a folder.

    Raises:
        ConfigError: if there is none, or it is not JSON.
    """
    record = read_json_object(folder / BASE_RECORD)
    if record is None:
        raise ConfigError(f"{folder} does not say which base it belongs to (no {BASE_RECORD}).")
    return record


def base_record(config: ModelConfig, fingerprint: BaseFingerprint) -> dict[str, str]:
    """What `BASE_RECORD` holds."""
    return {
        "model": config.path or "bundled",
        "fingerprint": fingerprint.exact,
        "in_bfloat16": fingerprint.in_bfloat16,
        "in_float16": fingerprint.in_float16,
    }


def check_base(folder: Path, fingerprint: BaseFingerprint, model_name: str) -> str | None:
    """Refuse an adapter, or a run to go on with, that was made for another base model.

    Args:
        folder: of the adapter or the run.
        fingerprint: of the base model that it is to be used with.
        model_name: what the user calls that model.

    Returns:
        A doubt in one sentence, where there is no record and the names alone differ; else None.

    Raises:
        BaseMismatchError: if the record names other weights.
        ConfigError: if a file of the folder is not JSON.
    """
    record = read_json_object(folder / BASE_RECORD)
    if record is not None:
        if not fingerprint.fits(record):
            raise BaseMismatchError(
                f"{folder} was made for {record.get('model')} with other weights than {model_name}; "
                "give the model that it was made for."
            )
        return None
    own = (read_json_object(folder / "adapter_config.json") or {}).get("base_model_name_or_path")
    if own and _last_part(own) != _last_part(model_name):
        return f"the adapter in {folder} says it was made for {own}, not for {model_name}"
    return None


def read_json_object(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is no such file.

    Raises:
        ConfigError: if it is not JSON, or no object.
    """
    if not path.is_file():
        return None
    try:
        content = read_json(path)
    except ValueError as problem:  # JSONDecodeError and UnicodeDecodeError are its kinds
        raise ConfigError(f"{path} is not JSON: {problem}.") from problem
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds {type(content).__name__}, not an object.")
    return content


def _last_part(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1]
