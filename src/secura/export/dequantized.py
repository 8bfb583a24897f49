"""A quantized model as the plain one that it computes with, and what that costs."""

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from secura.errors import ConfigError


def is_quantized(model: nn.Module) -> bool:
    """Whether weights of a model are stored in fewer bits than they compute in."""
    return getattr(model, "hf_quantizer", None) is not None


@dataclass(frozen=True, kw_only=True)
class Dequantized:
    """What it took to write a quantized model out plainly."""

    method: str
    """What had quantized it, as transformers calls it."""
    stored_bytes: int
    """Size of its weights and buffers before."""
    plain_bytes: int
    """Their size after."""

    @property
    def cost(self) -> str:
        """What a user pays, in a sentence."""
        times = self.plain_bytes / self.stored_bytes
        return (
            f"the base was stored by {self.method} and is written out plainly: {times:.1f} times as large "
            f"({self.plain_bytes / 2**20:,.1f} MiB for {self.stored_bytes / 2**20:,.1f}), with the rounding of its "
            "quantization, so it answers as the quantized base does and not as the one that it was made from"
        )


def dequantize_(model: PreTrainedModel) -> tuple[PreTrainedModel, Dequantized]:
    """Replace quantized layers by plain ones, in the dtype that the model computes in.

    Raises:
        ConfigError: if its kind of quantization cannot be taken back.
    """
    quantizer: Any = getattr(model, "hf_quantizer", None)
    method: Any = quantizer.quantization_config.quant_method
    method = str(getattr(method, "value", method))
    stored = _size(model)
    try:
        plain: PreTrainedModel = model.dequantize()
    except NotImplementedError as problem:
        raise ConfigError(
            f"weights quantized by {method} cannot be dequantized here; name the base in 16 or 32 bits with --base."
        ) from problem
    return plain, Dequantized(method=method, stored_bytes=stored, plain_bytes=_size(plain))


def _size(model: PreTrainedModel) -> int:
    return int(model.get_memory_footprint())
