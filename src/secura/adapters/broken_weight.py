"""The first weight of a model that holds NaN or infinity, for who has seen the model answer NaN."""

from torch import nn

from secura.adapters.sharding import own_part
from secura.numerics.finite import all_finite


def first_broken_weight(model: nn.Module, *, trained: bool = True) -> str | None:
    """Name of the first weight that is not finite, as far as this process holds it; None where all are.

    Args:
        model: with or without an adapter, on any device.
        trained: whether weights that are being trained count; their NaN may be what training has made.
    """
    for name, parameter in model.named_parameters():
        values = own_part(parameter.detach())
        if (parameter.requires_grad and not trained) or values.is_meta:
            continue
        if not all_finite(values):
            return name.removeprefix("base_model.model.").replace(".base_layer.", ".")
    return None
