"""The files that a model's weights are in: found, or fetched, and whole, without loading them."""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.hub import cached_file, get_checkpoint_shard_files

from secura.errors import ConfigError


def weight_files(source: str) -> list[Path]:
    """The safetensors files of a model in a folder, in the hub's cache or on the hub; none where it has others.

    Raises:
        OSError: if there is no such model, or it cannot be fetched.
    """
    cached_file(source, "config.json")  # says what is wrong where there is no such model
    whole = cached_file(source, SAFE_WEIGHTS_NAME, _raise_exceptions_for_missing_entries=False)
    if whole is not None:
        return [Path(whole)]
    index = cached_file(source, SAFE_WEIGHTS_INDEX_NAME, _raise_exceptions_for_missing_entries=False)
    return [] if index is None else [Path(shard) for shard in get_checkpoint_shard_files(source, index)[0]]


def check_weight_file(path: Path) -> None:
    """Refuse a safetensors file that is missing or cut short, by its header and its length.

    Raises:
        ConfigError: naming the file.
    """
    try:
        with safe_open(path, framework="pt"):
            pass
    except FileNotFoundError as problem:
        raise ConfigError(f"{path} is missing; copy or download it again.") from problem
    except (SafetensorError, OSError) as problem:
        reason = " ".join(str(problem).split())[:200]
        raise ConfigError(f"{path} is damaged, perhaps cut short ({reason}); copy or download it again.") from problem
