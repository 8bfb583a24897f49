"""What `secura doctor` finds: this installation, this machine, and what is wrong with an adapter's folder."""

import platform
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from secura.adapters.secura.config import PEFT_TYPE_NAME, plain_peft_type
from secura.adapters.secura.sealed_folder import check_seal, is_sealed, seal_folder
from secura.errors import ConfigError, SecuraError
from secura.evaluation.score_cache import cache_folder
from secura.experiments.models.adapter_files import check_adapter_files, read_adapter_config
from secura.experiments.models.base_record import BASE_RECORD, read_json_object
from secura.export.llama_quantize import PROGRAM as QUANTIZER
from secura.export.llama_quantize import quantizer
from secura.numerics.finite import all_finite
from secura.training.checkpoint_seal import SEAL_FILE

_VERSIONS = ("secura", "torch", "transformers", "peft", "accelerate", "safetensors", "tokenizers", "gguf")
_EXTRAS = {
    "trl": ("trl", "training through TRL's trainers"),
    "lm-eval": ("lm_eval", "tasks of lm-evaluation-harness in secura eval"),
    "llama-cpp": ("xllamacpp", "asking GGUF files in secura verify-export"),
    "studio": ("uvicorn", "runs as web pages in secura studio"),
    "ray": ("ray", "grids on a Ray cluster"),
    "slurm": ("submitit", "grids on a Slurm cluster"),
    "deepspeed": ("deepspeed", "weights divided by ZeRO"),
    "quantized": ("bitsandbytes", "bases in 8 and 4 bits"),
}
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PAIRS = (("lora_A", "lora_B"), ("lora_embedding_A", "lora_embedding_B"))
_OTHER_FACTOR: dict[str, str] = dict(_PAIRS) | {other: one for one, other in _PAIRS}
"""The factor without which a factor of a LoRA is nothing."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of what was found."""

    name: str
    """What it is about."""
    said: str
    """What is to say of it."""
    wrong: bool = False
    """Whether something has to be mended."""


def examine_installation() -> list[Finding]:
    """Versions, devices, memory, and what each missing extra would enable."""
    found = [Finding(name="python", said=platform.python_version())]
    found += [Finding(name=name, said=_version(name)) for name in _VERSIONS]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, whole = torch.cuda.mem_get_info(index)
            said = f"{torch.cuda.get_device_name(index)}, {_size(free)} of {_size(whole)} free"
            found.append(Finding(name=f"GPU {index}", said=said))
    else:
        found.append(Finding(name="GPU", said="none that PyTorch sees; everything runs on the CPU"))
    found.append(Finding(name="CPU", said=f"{platform.machine()}, {torch.get_num_threads()} threads"))
    memory = _free_memory()
    if memory is not None:
        found.append(Finding(name="memory", said=f"{_size(memory)} free"))
    home = next(folder for folder in (cache_folder(), *cache_folder().parents) if folder.exists())
    found.append(
        Finding(name="cache", said=f"{cache_folder()}, {_size(shutil.disk_usage(home).free)} free on its disk")
    )
    for extra, (module, enables) in _EXTRAS.items():
        if find_spec(module) is None:
            found.append(Finding(name=f"secura[{extra}]", said=f"not installed; it would enable {enables}"))
        else:
            found.append(Finding(name=f"secura[{extra}]", said=f"{module} is installed"))
    for program, (is_there, enables) in {
        "vllm": (find_spec("vllm") is not None, "asking LoRAs and merged models as vLLM serves them"),
        QUANTIZER: (quantizer() is not None, "GGUF files in Q4_K_M and kin"),
    }.items():
        found.append(
            Finding(name=program, said="installed" if is_there else f"not installed; it would enable {enables}")
        )
    return found


def examine_adapter(folder: Path, *, seal: bool = False) -> Finding:
    """What is wrong with an adapter's folder, in one line; or what it holds, where nothing is.

    Only files are read: no base is loaded, and nothing of the folder is carried out.

    Args:
        folder: of an adapter, or of a run.
        seal: whether an adapter of secura's that has no seal gets one, once nothing is wrong with it.
    """
    name = str(folder)
    inside = folder / "adapter"
    if not (folder / _CONFIG).is_file() and (inside / _CONFIG).is_file():
        folder = inside  # a run's own folder
    wrong = _what_is_wrong(folder)
    if wrong is not None:
        return Finding(name=name, said=wrong, wrong=True)
    config = read_adapter_config(folder)
    try:
        sealed = _sealed(folder, config, seal=seal)
    except SecuraError as problem:
        return Finding(name=name, said=str(problem), wrong=True)
    with safe_open(folder / _WEIGHTS, framework="pt") as opened:
        count = sum(_elements(opened.get_slice(key).get_shape()) for key in opened.keys())  # noqa: SIM118
    base = config.get("base_model_name_or_path") or "a base that it does not name"
    size = _size((folder / _WEIGHTS).stat().st_size)
    return Finding(name=name, said=f"whole: {_method(config)} on {base}, {count:,} numbers in {size}{sealed}")


def _sealed(folder: Path, config: dict[str, Any], *, seal: bool) -> str:
    """What is to say of an adapter's seal, after it was checked, or made where that was asked for."""
    if _method(config) != PEFT_TYPE_NAME:
        return "; adapters of this kind have no seal" if seal else ""
    if is_sealed(folder):
        check_seal(folder)
        return ", as it was sealed"
    if not seal:
        with safe_open(folder / _WEIGHTS, framework="pt") as opened:
            if any(key.endswith(".secura_seal") for key in opened.keys()):  # noqa: SIM118
                raise ConfigError(
                    f"the seal was taken out of {_CONFIG}; take the file as it was saved, or use secura doctor --seal, "
                    "which puts it back if the weights are those that were sealed."
                )
        return "; it has no seal, and `secura doctor --seal` gives it one"
    for above in (folder, folder.parent):
        if (above / SEAL_FILE).is_file():
            raise ConfigError(f"{above} has its own checksums, which a seal would break; seal a copy of the adapter.")
    seal_folder(folder)
    check_seal(folder)
    return "; its files agree, and it is sealed now"


def _what_is_wrong(folder: Path) -> str | None:
    if not folder.is_dir():
        return "there is no such folder"
    try:
        check_adapter_files(folder)
        read_json_object(folder / BASE_RECORD)
        config = read_adapter_config(folder)
        if _method(config) == PEFT_TYPE_NAME:
            is_sealed(folder)  # reads and checks all settings
        return _wrong_in_weights(folder / _WEIGHTS, config)
    except SecuraError as problem:
        return str(problem)


def _wrong_in_weights(file: Path, config: dict[str, Any]) -> str | None:
    with safe_open(file, framework="pt") as opened:
        keys: dict[str, None] = dict.fromkeys(opened.keys())  # in the file's order, and quick to look into
        if not keys:
            return f"{file.name} holds no tensor"
        for key in keys:
            other = ".".join(_OTHER_FACTOR.get(part, part) for part in key.split("."))
            if other not in keys:
                return f"{file.name} holds {key} but not {other}; copy it again"
        for key in keys:
            if not all_finite(opened.get_tensor(key)):
                return f"{key} holds NaN or infinity; training diverged, so take an earlier checkpoint"
        layers = ((config.get("saved") or {}).get("layers") or {}) if _method(config) == PEFT_TYPE_NAME else {}
        for layer, record in layers.items():
            own = [key for key in keys if key.startswith(f"base_model.model.{layer}.secura_")]
            if not any(".secura_change." in key for key in own):
                return f"{layer} has no trained factors in {file.name}, though {_CONFIG} names it; copy it again"
            for key in own:
                side = key.rpartition(".secura_")[2]
                if side in ("columns", "rows") and side in record:
                    stored = " ".join(str(index) for index in opened.get_tensor(key).tolist())
                    if stored != record[side]:
                        return f"{key} is not what {_CONFIG} says of {layer}; the two files are of different adapters"
                if side == "fingerprint" and "fingerprint" in record:
                    stored = " ".join(str(part) for part in opened.get_tensor(key).tolist())
                    if stored != record["fingerprint"]:
                        return f"the fingerprints of {layer} differ between the files; they are of different adapters"
    return None


def _method(config: dict[str, Any]) -> str:
    return plain_peft_type(str(config["peft_type"]))


def _elements(shape: list[int]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _free_memory() -> int | None:
    """Bytes of memory that a process may still take; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = [line for line in lines if line.startswith("MemAvailable:")]
    return 1024 * int(found[0].split()[1]) if found else None


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
