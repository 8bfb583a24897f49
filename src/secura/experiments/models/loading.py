"""Loading the model and tokenizer a run starts from, with one clear line where that fails."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from secura.errors import BaseMismatchError, ConfigError, InputError
from secura.experiments.settings.run import ModelConfig
from secura.training.processes import divides_weights

BASE_RECORD = "secura_base.json"
"""Beside an adapter: which model it was trained on."""

_SAMPLED_WEIGHTS = 64
"""Values of each tensor that enter the fingerprint: enough to tell two checkpoints apart."""


def model_source(config: ModelConfig) -> str:
    """Path or hub id of the model; the bundled one where the user names none."""
    if config.path is not None:
        return config.path
    from secura.tasks.world import bundled_model_path

    return str(bundled_model_path())


def load_model(config: ModelConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load model and tokenizer.

    Raises:
        ConfigError: if there is no such model, no tokenizer beside it, or it is no causal
            language model; or if CUDA was asked for and is not there.
    """
    source = model_source(config)
    _check_folder(source)
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("model.device is cuda, but PyTorch sees no CUDA device; set it to auto or cpu.")
    dtype = config.dtype if config.dtype == "auto" else getattr(torch, config.dtype)
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
    except (OSError, ValueError, KeyError, RuntimeError) as problem:
        raise ConfigError(f"model {source} cannot be loaded: {_in_one_line(problem)}") from problem
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as problem:
        raise ConfigError(
            f"model {source} has no tokenizer that can be loaded; put its tokenizer files into the folder "
            f"({_in_one_line(problem)})"
        ) from problem
    if config.device != "cpu" and torch.cuda.is_available() and not divides_weights():
        model.to(device=torch.device("cuda"))  # type: ignore[call-arg]  # transformers wraps nn.Module.to
    return model, tokenizer


def _check_folder(source: str) -> None:
    folder = Path(source)
    if folder.is_file():
        raise ConfigError(f"model {source} is a file; name the folder that holds config.json and the weights.")
    if folder.is_dir() and not (folder / "config.json").exists():
        if (folder / "adapter_config.json").exists():
            raise ConfigError(
                f"model {source} holds an adapter, not a model; name its base with --model, "
                f"and the adapter with --set method.start_from={source}."
            )
        raise ConfigError(f"model {source} holds no config.json; save a model there with save_pretrained.")
    looks_like_a_path = source.startswith((".", "/", "~")) or source.count("/") > 1
    if looks_like_a_path and not folder.exists():
        raise ConfigError(f"model {source}: no such folder.")


def check_tokens_are_known(model: PreTrainedModel, tokens: Iterable[int], source: str) -> None:
    """Refuse tokens beyond the model's embeddings, before they crash a step."""
    embeddings: Any = model.get_input_embeddings()
    rows, largest = embeddings.weight.shape[0], max(tokens, default=0)
    if largest >= rows:
        raise ConfigError(
            f"model {source} has embeddings for {rows} tokens, but its tokenizer gives token {largest}; "
            "it is another model's tokenizer."
        )


def base_fingerprint(model: nn.Module) -> str:
    """A checksum of the model's shapes and of a sample of each of its weights."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        flat = weight.detach().flatten()
        step = max(1, flat.numel() // _SAMPLED_WEIGHTS)
        sample = flat[::step].to("cpu", torch.float64)
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()


def base_record(config: ModelConfig, fingerprint: str) -> dict[str, str]:
    """What `BASE_RECORD` holds."""
    return {"model": config.path or "bundled", "fingerprint": fingerprint}


def check_base_record(folder: Path, fingerprint: str, model_name: str) -> bool:
    """Whether a folder says which base it fits; raises `BaseMismatchError` if that is another one."""
    record = folder / BASE_RECORD
    if not record.is_file():
        return False
    base = json.loads(record.read_text(encoding="utf-8"))
    if base.get("fingerprint") != fingerprint:
        raise BaseMismatchError(
            f"{folder} was made for {base.get('model')} with other weights than {model_name}; "
            "give the model it was made for with --model."
        )
    return True


def check_adapter_fits(adapter: Path, fingerprint: str, model_name: str) -> None:
    """Refuse an adapter that was made for another base model.

    Raises:
        InputError: if the folder holds no adapter.
        BaseMismatchError: if the adapter's record names other weights; or, where it has no
            record, another model.
    """
    settings = adapter / "adapter_config.json"
    if not settings.is_file():
        raise InputError(f"method.start_from {adapter}: no adapter there, for want of adapter_config.json.")
    if check_base_record(adapter, fingerprint, model_name):
        return
    own = json.loads(settings.read_text(encoding="utf-8")).get("base_model_name_or_path")
    if own and own.rstrip("/").rsplit("/", 1)[-1] != model_name.rstrip("/").rsplit("/", 1)[-1]:
        raise BaseMismatchError(
            f"adapter {adapter} was made for {own}, not for {model_name}; give that model with --model."
        )


def _in_one_line(problem: Exception) -> str:
    text = " ".join(str(problem).split())
    return text if len(text) <= 300 else text[:297] + "..."
