"""Loading the model and tokenizer a run starts from, with one clear line where that fails."""

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, try_to_load_from_cache
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.import_utils import is_flash_attn_2_available

from secura.errors import ConfigError
from secura.evaluation.causal_model import stated_context
from secura.experiments.models.gguf import gguf_file, unpacked_folder
from secura.experiments.models.weight_files import check_weight_file, weight_files
from secura.experiments.settings.run import ModelConfig
from secura.tasks.hub_rows import check_hub_answers
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
    options = _attention(config) | _quantization(config, source)
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, **options)
    except Exception as problem:  # transformers and tokenizers raise whatever a damaged file leads to
        raise ConfigError(f"model {source} cannot be loaded: {_in_one_line(problem)}") from problem
    tokenizer = load_tokenizer(source)
    if "quantization_config" in options:  # where it was put when it was quantized
        _leave_unpacked(model)
        return model, tokenizer
    if config.device != "cpu" and torch.cuda.is_available() and not divides_weights():
        model.to(device=torch.device("cuda"))  # type: ignore[call-arg]  # transformers wraps nn.Module.to
    return model, tokenizer


def as_stored(config: ModelConfig) -> ModelConfig:
    """The same model without quantization, on the CPU: what its weights are recognised by."""
    return config.model_copy(update={"load_in_4bit": False, "load_in_8bit": False, "device": "cpu"})


def check_loading(config: ModelConfig) -> None:
    """Refuse what is not installed, before anything is read.

    Raises:
        ConfigError: with the command that installs it.
    """
    if config.load_in_4bit and config.load_in_8bit:
        raise ConfigError("model.load_in_4bit and model.load_in_8bit are both set; leave one out.")
    if config.in_fewer_bits and find_spec("bitsandbytes") is None:
        which = "load_in_4bit" if config.load_in_4bit else "load_in_8bit"
        raise ConfigError(
            f"model.{which} needs bitsandbytes, which is not installed; run pip install 'secura[quantized]'."
        )
    if config.attn_implementation == "flash_attention_2" and not is_flash_attn_2_available():
        raise ConfigError(
            "model.attn_implementation is flash_attention_2, which needs a CUDA GPU and the package flash-attn; run "
            "pip install flash-attn --no-build-isolation, or use sdpa."
        )


def _attention(config: ModelConfig) -> dict[str, Any]:
    return {} if config.attn_implementation is None else {"attn_implementation": config.attn_implementation}


def _quantization(config: ModelConfig, source: str) -> dict[str, Any]:
    """What makes transformers quantize the weights as it loads them: NF4 with doubly quantized scales, as QLoRA has it.

    Source:
        QLoRA, arXiv:2305.14314. Products are computed in the type that the weights are stored in, or in `model.dtype`.
    """
    check_loading(config)
    if not config.in_fewer_bits:
        return {}
    stored = AutoConfig.from_pretrained(source).dtype or torch.float32
    computed = stored if config.dtype == "auto" else getattr(torch, config.dtype)
    on_gpu = config.device != "cpu" and torch.cuda.is_available()
    quantized = BitsAndBytesConfig(
        load_in_4bit=config.load_in_4bit,
        load_in_8bit=config.load_in_8bit,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=computed,
    )
    return {"quantization_config": quantized, "device_map": {"": torch.cuda.current_device() if on_gpu else "cpu"}}


def _leave_unpacked(model: PreTrainedModel) -> None:
    """Let no 4-bit weight be repacked at its first inference on a CPU: no gradient passes through it afterwards."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]  # nn.Module types its attributes


def load_tokenizer_and_context(config: ModelConfig) -> tuple[PreTrainedTokenizerBase, int | None]:
    """Load a model's tokenizer, and read from its config how many tokens it reads at once; no weights.

    Raises:
        ConfigError: if there is no such model, or no tokenizer beside it.
    """
    source = loaded_from(config)
    _check_folder(source)
    tokenizer = load_tokenizer(source)
    try:
        return tokenizer, stated_context(AutoConfig.from_pretrained(source), tokenizer)
    except Exception as problem:  # transformers and tokenizers raise whatever a damaged file leads to
        raise ConfigError(f"model {source} cannot be loaded: {_in_one_line(problem)}") from problem


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
    except Exception as problem:  # transformers and tokenizers raise whatever a damaged file leads to
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
    except Exception as problem:  # transformers and tokenizers raise whatever a damaged file leads to
        raise ConfigError(
            f"model {source} has no tokenizer that can be loaded; put its tokenizer files into the folder "
            f"({_in_one_line(problem)})"
        ) from problem


def _check_files(source: str) -> None:
    _check_folder(source)
    try:
        files = weight_files(source)
    except Exception as problem:  # transformers and tokenizers raise whatever a damaged file leads to
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
    if folder.exists():
        return
    if looks_like_a_path:
        raise ConfigError(f"model {source}: no such folder.")
    if not constants.HF_HUB_OFFLINE and try_to_load_from_cache(source, "config.json") is None:
        try:
            check_hub_answers()
        except LookupError as problem:
            raise ConfigError(
                f"model {source}: no such folder here, and as a model of the hub it is {problem}; name a folder, or "
                "fetch it where there is a network."
            ) from problem


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
