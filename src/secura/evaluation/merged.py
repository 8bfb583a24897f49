"""Scoring a model as it would be exported: with its adapter merged, for as long as it is scored."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from secura.adapters.offloading import is_offloaded
from secura.adapters.secura.layer import SecuraLayer
from secura.errors import SecuraError
from secura.export.dequantized import is_quantized


@contextmanager
def merged_for_scoring(model: PreTrainedModel | PeftModel) -> Iterator[bool]:
    """Merge the adapter, if there is one that can be merged, and take it out again.

    A norm in weight space is costly at each token that is generated; merged, it costs
    nothing. The base weights come back to the bit: W + D − D is not W in floating point,
    and an adapter must be saved against the weights it was trained on. Each adapted weight
    is held twice meanwhile, merged and as it was.

    Yields:
        Whether the model is merged; a method that cannot be merged is scored as it is, and
        so is an adapter of another kind than SECURA's while accelerate offloads its base, or on a
        base in fewer bits: merged there, what was learned would be rounded to those bits.
    """
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    if any(layer.merged for layer in layers):  # at a point of the dial that stands in the weights
        yield True
        return
    # A SECURA layer keeps the original tensor itself and puts it back.
    forgetful = [layer.get_base_layer() for layer in layers if not isinstance(layer, SecuraLayer)]
    apart = any(is_offloaded(base) for base in forgetful) or (forgetful and is_quantized(model))
    if not layers or not isinstance(model, PeftModel) or apart:
        yield False
        return
    saved = [(weight, weight.detach().clone()) for base in forgetful for weight in base.parameters()]
    try:
        try:
            model.base_model.merge_adapter()  # type: ignore[operator]  # PEFT types base_model as a Module
            merged = True
        except (SecuraError, ValueError, TypeError, NotImplementedError):
            _take_out(layers, saved)
            merged = False
        yield merged
    finally:
        _take_out(layers, saved)


def _take_out(layers: Sequence[BaseTunerLayer], saved: Sequence[tuple[nn.Parameter, Tensor]]) -> None:
    """Unmerge what is merged, and put the base weights back exactly."""
    for layer in layers:
        if layer.merged:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # OSF says that it cannot; the weights are put back below
                layer.unmerge()
            layer.merged_adapters.clear()
    with torch.no_grad():
        for weight, before in saved:
            weight.copy_(before)
