"""A LoRA as a GGUF file that llama.cpp puts onto a base in GGUF."""

from pathlib import Path
from typing import Any

import torch
from gguf import GGUFType, GGUFWriter, Keys

from secura.errors import ConfigError
from secura.export.gguf_shapes import arch_name, gguf_name, names_of, shape_of
from secura.export.lora import Lora


@torch.no_grad()
def write_gguf_lora(path: Path, lora: Lora, config: Any, *, name: str, half: bool = False) -> None:
    """Write the factors of a LoRA.

    Args:
        path: the file.
        lora: what to write.
        config: of the base model.
        name: what the file calls the adapter.
        half: whether the factors are stored in 16 bits.

    Raises:
        ConfigError: for a bias, a module trained whole, or a module that llama.cpp has no name for.
    """
    if lora.whole_modules:
        raise ConfigError(
            f"the adapter trained {', '.join(sorted(lora.whole_modules))} whole, which no LoRA of llama.cpp holds; "
            "use --to gguf."
        )
    shape = shape_of(config)
    names = names_of(shape, config)
    rank = max(layer.rank for layer in lora.layers)
    writer = GGUFWriter(str(path), arch_name(shape))
    try:
        writer.add_type(GGUFType.ADAPTER)
        writer.add_name(name)
        writer.add_string(Keys.Adapter.TYPE, "lora")
        writer.add_float32(Keys.Adapter.LORA_ALPHA, float(rank))
        for layer in lora.layers:
            theirs = gguf_name(names, f"{layer.name}.weight")
            if theirs is None or layer.bias is not None:
                why = "has no name" if theirs is None else "knows no trained bias"
                raise ConfigError(f"llama.cpp {why} for {layer.name} in a LoRA; use --to gguf.")
            # llama.cpp multiplies by alpha / the rank it finds: padded, that is 1 for each layer.
            down, up = layer.padded(rank)
            for side, factor in (("a", down), ("b", shape.stored_output(f"{layer.name}.weight", up, config))):
                values = factor.contiguous().numpy()
                writer.add_tensor(f"{theirs}.lora_{side}", values.astype("float16") if half else values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
