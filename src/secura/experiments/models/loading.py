"""Loading the model and tokenizer a run starts from, with one clear line where that fails."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from secura.errors import ConfigError
from secura.experiments.models.gguf import gguf_file, unpacked_folder
from secura.experiments.models.weight_files import check_weight_file, weight_files
from secura.experiments.settings.run import ModelConfig
from secura.training.processes import divides_weights


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
    source = loaded_from(config)
    _check_files(source)
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("model.device is cuda, but PyTorch sees no CUDA device; set it to auto or cpu.")
    dtype = config.dtype if config.dtype == "auto" else getattr(torch, config.dtype)
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
    except (OSError, ValueError, KeyError, RuntimeError) as problem:
        raise ConfigError(f"model {source} cannot be loaded: {_in_one_line(problem)}") from problem
    tokenizer = load_tokenizer(source)
    if config.device != "cpu" and torch.cuda.is_available() and not divides_weights():
        model.to(device=torch.device("cuda"))  # type: ignore[call-arg]  # transformers wraps nn.Module.to
    return model, tokenizer


def check_model(source: str) -> None:
    """Refuse a model that could not be loaded, by its files and its tokenizer; its weights are not read.

    Args:
        source: folder, GGUF file or hub id; a model that is not in the hub's cache is fetched.

    Raises:
        ConfigError: if there is no such model, no tokenizer beside it, or a file of it is damaged.
    """
    source = loaded_from(ModelConfig(path=source))
    _check_files(source)
    load_tokenizer(source)


def loaded_from(config: ModelConfig) -> str:
    """What transformers loads: the folder of a GGUF file's unpacked model, or the model's own folder or hub id."""
    source = model_source(config)
    file = gguf_file(source)
    return source if file is None else str(unpacked_folder(file, config.dtype))


def quantization_of(config: ModelConfig) -> str | None:
    """What has quantized a model as it is stored; None where its weights are plain, as those of a GGUF file are here.

    Raises:
        ConfigError: if there is no such model.
    """
    source = model_source(config)
    if gguf_file(source) is not None:
        return None
    _check_folder(source)
    try:
        stored: Any = getattr(AutoConfig.from_pretrained(source), "quantization_config", None)
    except (OSError, ValueError, KeyError) as problem:
        raise ConfigError(f"model {source} cannot be loaded: {_in_one_line(problem)}") from problem
    if not stored:
        return None
    method = stored.get("quant_method") if isinstance(stored, dict) else stored.quant_method
    return str(getattr(method, "value", method) or "quantization")


def load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model, or the one saved beside an adapter.

    Raises:
        ConfigError: if there is none that can be loaded.
    """
    try:
        return AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as problem:
        raise ConfigError(
            f"model {source} has no tokenizer that can be loaded; put its tokenizer files into the folder "
            f"({_in_one_line(problem)})"
        ) from problem


def _check_files(source: str) -> None:
    _check_folder(source)
    try:
        files = weight_files(source)
    except (OSError, ValueError, KeyError) as problem:
        raise ConfigError(f"model {source} cannot be loaded: {_in_one_line(problem)}") from problem
    for file in files:
        check_weight_file(file)


def _check_folder(source: str) -> None:
    folder = Path(source)
    if folder.is_file():
        raise ConfigError(
            f"model {source} is a file; name the folder that holds config.json and the weights, or a GGUF file."
        )
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


def _in_one_line(problem: Exception) -> str:
    text = " ".join(str(problem).split())
    return text if len(text) <= 300 else text[:297] + "..."
