"""Singular values of each adapted weight, before training and as it is served after it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from secura.evaluation.merged import merged_for_scoring
from secura.evaluation.scoring import Model

KEPT_VALUES = 256
"""At most this many singular values of a weight are stored, the largest."""


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """Singular values of one adapted weight, largest first, before and after training."""

    layer: str
    """Name of the layer in the model."""
    before: Sequence[float]
    """Of W0; at most the 256 largest."""
    after: Sequence[float]
    """Of the weight as it is served; at most the 256 largest."""
    norm_before: float
    """L2 norm of all singular values, which is the Frobenius norm of W0."""
    norm_after: float
    """The same of the weight as it is served."""


def spectra(base: PreTrainedModel, trained: Model) -> list[Spectrum]:
    """Singular values of each adapted weight, largest first.

    Args:
        base: the model that training set out from, untouched.
        trained: the trained model; with its adapter, or one whose every weight was trained, of
            which the linear layers below the output count as adapted.

    Returns:
        One spectrum a layer, in the order of the model; none at all for an adapter that no
        single weight equals, such as one whose norm is the released one.
    """
    with merged_for_scoring(trained) as merged:
        if isinstance(trained, PeftModel) and not merged:
            return []
        return [_spectrum(name, _weight(base.get_submodule(name)), weight) for name, weight in _adapted(trained)]


def _adapted(trained: Model) -> Iterator[tuple[str, Tensor]]:
    """Each adapted weight by the name of its layer in the base model."""
    if isinstance(trained, PeftModel):
        for name, layer in trained.named_modules():
            if isinstance(layer, BaseTunerLayer):
                yield name.removeprefix("base_model.model."), _weight(layer.get_base_layer())
        return
    output = trained.get_output_embeddings()
    for name, layer in trained.named_modules():
        if type(layer).__name__ in ("Linear", "Conv1D") and layer is not output:
            yield name, _weight(layer)


def _weight(layer: nn.Module) -> Tensor:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.detach()


def _spectrum(name: str, before: Tensor, after: Tensor) -> Spectrum:
    old, new = _singular_values(before), _singular_values(after)
    return Spectrum(
        layer=name,
        before=_six_digits(old),
        after=_six_digits(new),
        norm_before=old.norm().item(),
        norm_after=new.norm().item(),
    )


def _six_digits(values: Tensor) -> list[float]:
    """What float32 knows of them, without the digits that only writing in decimals makes up."""
    return [float(f"{value:.6g}") for value in values[:KEPT_VALUES].tolist()]


def _singular_values(weight: Tensor) -> Tensor:
    at_least_float32 = torch.promote_types(weight.dtype, torch.float32)
    return torch.linalg.svdvals(weight.to(at_least_float32)).cpu()
