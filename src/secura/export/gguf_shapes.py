"""What llama.cpp wants of each kind of model: names of its tensors, the layout of their values, and its numbers.

| model | what differs from transformers |
|---|---|
| llama | rows of q and k are reordered in each head, for another form of the rotary embedding |
| qwen2 | nothing |
| gemma2 | norms are stored as 1 + weight; the scale of attention is that of the head's width |
| gpt2 | linear weights are stored (out, in) |

Names come from the `gguf` package, which llama.cpp's own converter uses.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGUFWriter, RopeScalingType, TensorNameMap, get_tensor_name_map
from torch import Tensor

from secura.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How one kind of model is written."""

    arch: MODEL_ARCH
    """Its name in `gguf`."""
    add_numbers: Callable[[GGUFWriter, Any], None]
    """Writes its numbers, from a config of transformers."""
    stored: Callable[[str, Tensor, Any], Tensor]
    """A tensor of transformers, by its name, as llama.cpp stores it."""
    stored_output: Callable[[str, Tensor, Any], Tensor]
    """The same for lora_B of a module, shape (out, rank), in whatever layout the module's weight is."""


def shape_of(config: Any) -> Shape:
    """How a model of this config is written.

    Raises:
        ConfigError: for a kind of model, or a number of it, that is not known to be written right.
    """
    shape = SHAPES.get(config.model_type)
    if shape is None:
        raise ConfigError(
            f"models of type {config.model_type} are not written as GGUF here, only {', '.join(sorted(SHAPES))}; "
            "export --to merged, and convert that with llama.cpp's convert_hf_to_gguf.py."
        )
    return shape


def names_of(shape: Shape, config: Any) -> TensorNameMap:
    """The table of tensor names."""
    return get_tensor_name_map(shape.arch, config.num_hidden_layers)


def gguf_name(names: TensorNameMap, name: str) -> str | None:
    """What llama.cpp calls a tensor of transformers; None where it has none of that name."""
    return names.get_name(name, try_suffixes=(".weight", ".bias"))


def arch_name(shape: Shape) -> str:
    """What a file calls its architecture."""
    return MODEL_ARCH_NAMES[shape.arch]


def rope_factors(config: Any) -> Tensor | None:
    """What each rotary frequency is divided by, shape (head width / 2,); None where nothing is.

    Source:
        Llama 3.1's scaling, as transformers' `_compute_llama3_parameters` has it.
    """
    rope = _rope(config)
    if rope.get("rope_type", "default") != "llama3":
        return None
    width = _head_width(config)
    lengths = 2 * math.pi * rope["rope_theta"] ** (torch.arange(0, width, 2, dtype=torch.float64) / width)
    factor, low, high = rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"]
    original = rope["original_max_position_embeddings"]
    smooth = (original / lengths - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    factors = torch.where(lengths < original / high, torch.ones_like(lengths), between)
    return torch.where(lengths > original / low, torch.full_like(lengths, factor), factors).float()


def _rope(config: Any) -> dict[str, Any]:
    return dict(getattr(config, "rope_parameters", None) or {})


def _head_width(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _add_common(writer: GGUFWriter, config: Any) -> None:
    """The numbers of models with rotary embeddings."""
    rope = _rope(config)
    kind = rope.get("rope_type", "default")
    if kind not in ("default", "llama3", "linear"):
        raise ConfigError(
            f"the rotary embedding is scaled by {kind!r}, which is not written as GGUF here; export --to merged, and "
            "convert that with llama.cpp's convert_hf_to_gguf.py."
        )
    if kind == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    width = _head_width(config)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_dimension_count(width)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_vocab_size(config.vocab_size)


def _check_activation(config: Any, *known: str) -> None:
    used = getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", None)
    used = used or getattr(config, "activation_function", None)
    if used not in known:
        raise ConfigError(
            f"the model's activation is {used}, but llama.cpp computes {known[0]} for {config.model_type}; it would "
            "give other answers."
        )


# ---------------------------------------------------------------------- llama


def _add_llama(writer: GGUFWriter, config: Any) -> None:
    _check_activation(config, "silu")
    _add_common(writer, config)


def _llama_rows(name: str, tensor: Tensor, config: Any) -> Tensor:
    """Rows of q and k, halves of each head interleaved; anything else as it is."""
    module = name.removesuffix(".weight").removesuffix(".bias").rpartition(".")[2]
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(module)
    if heads is None:
        return tensor
    rows = tensor.shape[0]
    return tensor.reshape(heads, 2, rows // heads // 2, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)


# ---------------------------------------------------------------------- qwen2


def _add_qwen2(writer: GGUFWriter, config: Any) -> None:
    _check_activation(config, "silu")
    if getattr(config, "use_sliding_window", False):
        raise ConfigError("the model reads through a sliding window, which llama.cpp does not know of qwen2.")
    _add_common(writer, config)


def _as_it_is(name: str, tensor: Tensor, config: Any) -> Tensor:
    del name, config
    return tensor


# ---------------------------------------------------------------------- gemma2


def _add_gemma2(writer: GGUFWriter, config: Any) -> None:
    _check_activation(config, "gelu_pytorch_tanh")
    width, layers = _head_width(config), config.num_hidden_layers
    # llama.cpp knows the 27B model, of 46 layers, as the one whose scale is hidden size / heads.
    scale_of = config.hidden_size / config.num_attention_heads if layers == 46 else width
    if config.query_pre_attn_scalar != scale_of:
        raise ConfigError(
            f"query_pre_attn_scalar is {config.query_pre_attn_scalar}, but llama.cpp computes with {scale_of:g} for "
            f"gemma2 of {layers} layers; it would give different answers."
        )
    kinds = ["sliding_attention" if (index + 1) % 2 else "full_attention" for index in range(layers)]
    if list(config.layer_types) != kinds:
        raise ConfigError("layer_types is not sliding and full in turn, which is all that llama.cpp knows of gemma2.")
    _add_common(writer, config)
    if not config.attn_logit_softcapping or not config.final_logit_softcapping:
        raise ConfigError(
            "the model caps no logits, but llama.cpp always does for gemma2; it would give different answers."
        )
    writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
    writer.add_final_logit_softcapping(config.final_logit_softcapping)
    writer.add_sliding_window(config.sliding_window)


def _gemma2_tensor(name: str, tensor: Tensor, config: Any) -> Tensor:
    del config
    return tensor.float() + 1 if name.endswith("norm.weight") else tensor


# ---------------------------------------------------------------------- gpt2


def _add_gpt2(writer: GGUFWriter, config: Any) -> None:
    _check_activation(config, "gelu_new", "gelu_pytorch_tanh")
    if config.scale_attn_by_inverse_layer_idx or not config.scale_attn_weights:
        raise ConfigError("the model scales attention in its own way, which llama.cpp does not know of gpt2.")
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(config.n_inner or 4 * config.n_embd)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_vocab_size(config.vocab_size)


def _gpt2_tensor(name: str, tensor: Tensor, config: Any) -> Tensor:
    del config
    is_conv1d = name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))
    return tensor.T if is_conv1d else tensor


SHAPES = {
    "llama": Shape(arch=MODEL_ARCH.LLAMA, add_numbers=_add_llama, stored=_llama_rows, stored_output=_llama_rows),
    "qwen2": Shape(arch=MODEL_ARCH.QWEN2, add_numbers=_add_qwen2, stored=_as_it_is, stored_output=_as_it_is),
    "gemma2": Shape(arch=MODEL_ARCH.GEMMA2, add_numbers=_add_gemma2, stored=_gemma2_tensor, stored_output=_as_it_is),
    "gpt2": Shape(arch=MODEL_ARCH.GPT2, add_numbers=_add_gpt2, stored=_gpt2_tensor, stored_output=_as_it_is),
}
"""By transformers' model_type."""
