"""The two files of an adapter, as far as they can be judged without a base: whole, readable, and of a kind PEFT knows.

PEFT itself would say of a file that is none whatever Python says, would wait for a named pipe, and would read a pickle.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME
from safetensors import safe_open

from secura.adapters.secura.config import PEFT_TYPE_NAME, plain_peft_type
from secura.errors import ConfigError
from secura.experiments.models.base_record import read_json_object
from secura.experiments.models.weight_files import check_weight_file


def check_adapter_files(folder: Path) -> None:
    """Refuse a folder that PEFT could not load as an adapter, whatever the base, or would load from a pickle.

    Of the weights only the header is read.

    Raises:
        ConfigError: naming the file.
    """
    kind = plain_peft_type(read_adapter_config(folder)["peft_type"])
    weights = folder / SAFETENSORS_WEIGHTS_NAME
    if not weights.is_file() and (folder / WEIGHTS_NAME).exists():
        raise ConfigError(
            f"{folder / WEIGHTS_NAME} is a pickle, which secura does not read; load the adapter with PEFT and save it "
            f"again, as {SAFETENSORS_WEIGHTS_NAME}."
        )
    if weights.exists() and not weights.is_file():
        raise ConfigError(f"{weights} is not a file; copy the adapter again.")
    check_weight_file(weights)
    with safe_open(weights, framework="pt") as opened:
        ours = any(".secura_" in key for key in opened.keys())  # noqa: SIM118 - it is no dictionary
    if ours is not (kind == PEFT_TYPE_NAME):
        holds = "tensors of secura's" if ours else "none of its tensors"
        raise ConfigError(
            f"{folder / CONFIG_NAME} says that the adapter is {kind}, but {weights.name} holds {holds}; they are of "
            "two adapters, so copy both files again."
        )


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """What adapter_config.json holds.

    Raises:
        ConfigError: if it cannot be read, or is of a kind of adapter that PEFT does not know.
    """
    import secura.adapters  # noqa: F401 - so that PEFT knows our methods

    file = folder / CONFIG_NAME
    config = read_json_object(file)
    if config is None:
        raise ConfigError(f"{file} is missing, so {folder} is no adapter; copy it again.")
    if "peft_type" not in config:
        raise ConfigError(f"{file} does not say which kind of adapter it is; copy it again.")
    kind = config["peft_type"]
    if not isinstance(kind, str) or plain_peft_type(kind) not in PEFT_TYPE_TO_CONFIG_MAPPING:
        raise ConfigError(
            f"{file} says that peft_type is {str(kind)[:100]!r}, which PEFT does not know; copy it again."
        )
    return config


@contextmanager
def incomplete_refused() -> Iterator[None]:
    """Within it, PEFT refuses an adapter whose weights file lacks tensors, which it would warn of and start anew."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*Found missing adapter keys")
        yield
