"""The weights under training: copies of them, and other values in their place for a while."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """What requires a gradient, by name."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def copied_values(model: nn.Module) -> dict[str, Tensor]:
    """A detached copy of everything under training."""
    return {name: weight.detach().clone() for name, weight in trained_parameters(model).items()}


def move_beside_(held: dict[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Keep what is held on the device of the value of the same name; what lies elsewhere is moved once, and stays.

    A strategy's state is read onto the CPU, where a model on a GPU would fetch it at every step.
    """
    for name, value in values.items():
        if name in held and held[name].device != value.device:
            held[name] = held[name].to(value.device)


@contextmanager
def values_in_place(model: nn.Module, values: dict[str, Tensor]) -> Iterator[None]:
    """Compute with other values of the trained weights, which are moved beside them first.

    Storage is exchanged and not overwritten, so a forward pass that waits for its backward
    pass keeps the values it was made with.
    """
    parameters = trained_parameters(model)
    move_beside_(values, parameters)
    own = {name: parameters[name].data for name in values}
    try:
        for name, value in values.items():
            parameters[name].data = value.to(own[name].dtype)
        yield
    finally:
        for name, value in own.items():
            parameters[name].data = value


@torch.no_grad()
def overwrite_(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Write values into the trained weights."""
    parameters = trained_parameters(model)
    for name, value in values.items():
        parameters[name].copy_(value)
