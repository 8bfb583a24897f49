"""What a base's layers read and write on some texts, from which `selection="activation"` takes its columns and rows.

A change C (A B) R answers to R x alone. With the rows that the base answers with least, R x is small on such texts,
and so is what the change does to them. Columns that add least are what the base would miss least.

Of each layer two vectors are kept, the mean squares of its inputs and of its outputs; they are summed as the texts are
read, one text at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from secura.adapters.secura.config import SecuraConfig
from secura.errors import ConfigError

TEXTS_READ = 256
"""At most this many texts are read; of 32 the ranking is near what it is of all."""


@dataclass(frozen=True, kw_only=True)
class LayerActivity:
    """Mean squares over all tokens of all texts, float64."""

    inputs: Tensor
    """E x_j², shape (in,)."""
    outputs: Tensor
    """E (W x)_i² of the layer's own output less its bias, shape (out,)."""


def measure_activity(model: nn.Module, config: SecuraConfig, texts: Sequence[Sequence[int]]) -> None:
    """Read texts with a base model, and leave in a config what its layers read and wrote.

    To be called before `get_peft_model`, with the same config; a saved adapter has its columns and rows with it.

    Args:
        model: a causal language model without an adapter.
        config: with `selection="activation"`.
        texts: in tokens; the first 256 are read.

    Raises:
        ConfigError: if there are no texts, or a layer answered with NaN or infinity.
    """
    if not any(texts):
        raise ConfigError("selection='activation' needs texts for the base to read; name a file of what must be kept.")
    sums: dict[str, list[Tensor]] = {}
    count = 0
    training = model.training
    model.eval()
    try:
        with _summing(model, sums), torch.no_grad():
            device = next(model.parameters()).device
            for text in texts[:TEXTS_READ]:
                if text:
                    model(input_ids=torch.tensor([list(text)], device=device), use_cache=False)
                    count += len(text)
    finally:
        model.train(training)
    for name, (inputs, outputs) in sums.items():
        if not (inputs.isfinite().all() and outputs.isfinite().all()):
            raise ConfigError(f"layer {name} reads or writes NaN or infinity on these texts, so nothing can be ranked.")
    config.activity = {
        name: LayerActivity(inputs=inputs / count, outputs=outputs / count) for name, (inputs, outputs) in sums.items()
    }


@contextmanager
def _summing(model: nn.Module, sums: dict[str, list[Tensor]]) -> Iterator[None]:
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))]
    handles = [module.register_forward_hook(partial(_add_squares, sums, name)) for name, module in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _add_squares(sums: dict[str, list[Tensor]], name: str, module: nn.Module, given: Any, output: Tensor) -> None:
    bias = getattr(module, "bias", None)
    found = [_squares(given[0]), _squares(output if bias is None else output - bias)]
    sums[name] = [old + new for old, new in zip(sums[name], found, strict=True)] if name in sums else found


def _squares(values: Tensor) -> Tensor:
    """Σ over all tokens of the square of each feature."""
    norms = torch.linalg.vector_norm(values.detach().flatten(0, -2), dim=0, dtype=torch.float32)
    return norms.to("cpu", torch.float64).square_()
