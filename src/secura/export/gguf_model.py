"""A whole model as a GGUF file, one tensor in memory at a time."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, LlamaFileType
from gguf.quants import quant_shape_to_byte_shape, quantize
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secura.errors import ConfigError
from secura.export.gguf_shapes import Shape, arch_name, gguf_name, names_of, rope_factors, shape_of
from secura.export.gguf_tokenizer import add_tokenizer
from secura.export.llama_quantize import QUANTIZED_KINDS, check_quantizer, quantize_file

KINDS = {
    "f32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "bf16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
    "q5_1": (GGMLQuantizationType.Q5_1, LlamaFileType.MOSTLY_Q5_1),
    "q4_0": (GGMLQuantizationType.Q4_0, LlamaFileType.MOSTLY_Q4_0),
}
"""How matrices can be stored; vectors are always in 32 bits. The quantizers are those of the `gguf` package."""


def check_kind(kind: str) -> None:
    """Refuse a kind of storage that cannot be written.

    Raises:
        ConfigError: naming those that can.
    """
    if kind in QUANTIZED_KINDS:
        check_quantizer(kind)
    elif kind not in KINDS:
        raise ConfigError(f"GGUF is not written as {kind!r}; known: {', '.join((*KINDS, *QUANTIZED_KINDS))}.")


@torch.no_grad()
def write_gguf(
    path: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    kind: str,
    name: str,
    on_tensor: Callable[[str], None] | None = None,
) -> None:
    """Write a model and its tokenizer.

    Args:
        path: the file.
        model: without an adapter; its weights in any floating dtype.
        tokenizer: what it is asked with.
        kind: how matrices are stored, of `KINDS` or of `QUANTIZED_KINDS`, for which all of it is written in 32 bits
            first.
        name: what the file calls the model.
        on_tensor: called with the name of each tensor once it is written.

    Raises:
        ConfigError: if llama.cpp would compute something else with such a model or tokenizer.
    """
    check_kind(kind)
    if kind in QUANTIZED_KINDS:
        whole = path.with_name(f"{path.name}.f32")
        write_gguf(whole, model, tokenizer, kind="f32", name=name, on_tensor=on_tensor)
        try:
            quantize_file(whole, path, kind)
        finally:
            whole.unlink()
        return
    config: Any = model.config
    shape = shape_of(config)
    wanted, file_type = KINDS[kind]
    writer = GGUFWriter(str(path), arch_name(shape))
    try:
        writer.add_type("model")
        writer.add_name(name)
        shape.add_numbers(writer, config)
        writer.add_file_type(file_type)
        writer.add_quantization_version(2)
        add_tokenizer(writer, tokenizer, config.vocab_size, _ends(model))
        tensors = list(_tensors(model, shape))
        types = []
        for own, theirs, tensor in tensors:
            dimensions = tuple(shape.stored(own, torch.empty_like(tensor, device="meta"), config).shape)
            types.append(_type_of(theirs, dimensions, wanted))
            size = int(np.prod(quant_shape_to_byte_shape(dimensions, types[-1])))
            writer.add_tensor_info(theirs, dimensions, np.dtype(np.float32), size, raw_dtype=types[-1])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for (own, theirs, tensor), stored_as in zip(tensors, types, strict=True):
            values = shape.stored(own, tensor.detach().float().cpu(), config).contiguous().numpy()
            writer.write_tensor_data(quantize(values, stored_as))
            if on_tensor is not None:
                on_tensor(theirs)
    finally:
        writer.close()


def _tensors(model: PreTrainedModel, shape: Shape) -> Iterator[tuple[str, str, Tensor]]:
    """Every tensor by its name in transformers and in llama.cpp; an output that is the embedding is left out."""
    config: Any = model.config
    names = names_of(shape, config)
    for own, tensor in model.state_dict(keep_vars=True).items():
        if config.tie_word_embeddings and own == "lm_head.weight":
            continue
        theirs = gguf_name(names, own)
        if theirs is None:
            raise ConfigError(f"the model has a tensor {own}, for which llama.cpp has no name in {arch_name(shape)}.")
        yield own, theirs, tensor
    factors = rope_factors(config)
    if factors is not None:
        yield "rope_freqs", "rope_freqs.weight", factors


def _type_of(name: str, dimensions: tuple[int, ...], wanted: GGMLQuantizationType) -> GGMLQuantizationType:
    """The kind a tensor is stored as, by llama.cpp's own rules.

    Vectors and positions stay in 32 bits; a matrix whose rows do not divide into blocks in 16.
    """
    if len(dimensions) < 2 or name == "position_embd.weight":
        return GGMLQuantizationType.F32
    block, _ = GGML_QUANT_SIZES[wanted]
    return wanted if dimensions[-1] % block == 0 else GGMLQuantizationType.F16


def _ends(model: PreTrainedModel) -> list[int]:
    ends: Any = getattr(model.generation_config, "eos_token_id", None)
    return [int(end) for end in (ends if isinstance(ends, list) else [ends]) if end is not None]
