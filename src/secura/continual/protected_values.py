"""What a quadratic penalty holds in place: trained parameters, or the effective weights they make.

The two differ where an adapter folds or starts anew at a task boundary: its parameters then
begin again, while the weight W' of the model goes on. Both answer the same three questions:
which values, as a function the penalty can be differentiated through; and the squares of
their gradients after a backward pass, which a Fisher estimate sums.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from typing_extensions import override

from secura.adapters.secura.layer import SecuraLayer
from secura.continual.trained_weights import trained_parameters
from secura.errors import ConfigError


class ProtectedValues(ABC):
    """Named tensors of a model that a penalty holds near their anchors."""

    @abstractmethod
    def current(self, model: nn.Module) -> dict[str, Tensor]:
        """The values now, differentiable in what is under training."""

    @abstractmethod
    @contextmanager
    def recording(self, model: nn.Module) -> Iterator[None]:
        """Note, in each forward pass inside, whatever `gradients` needs."""

    @abstractmethod
    def gradients(self, model: nn.Module) -> dict[str, Tensor]:
        """Gradient of the last backward pass in each value, inside `recording`."""


class TrainedParameters(ProtectedValues):
    """The parameters under training themselves."""

    @override
    def current(self, model: nn.Module) -> dict[str, Tensor]:
        return dict(trained_parameters(model))

    @override
    @contextmanager
    def recording(self, model: nn.Module) -> Iterator[None]:
        del model
        yield

    @override
    def gradients(self, model: nn.Module) -> dict[str, Tensor]:
        return {
            name: torch.zeros_like(weight) if weight.grad is None else weight.grad.detach().clone()
            for name, weight in trained_parameters(model).items()
        }


class EffectiveWeights(ProtectedValues):
    """W' of each adapted layer, shape (out, in), for SECURA and for LoRA without DoRA.

    Holds one (out, in) matrix a layer for each of the Fisher and the anchor, as much memory
    as the adapted weights themselves.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[Tensor, Tensor]] = {}

    @override
    def current(self, model: nn.Module) -> dict[str, Tensor]:
        return {name: _effective_weight(name, layer) for name, layer in _adapted_layers(model)}

    @override
    @contextmanager
    def recording(self, model: nn.Module) -> Iterator[None]:
        def note(name: str) -> Any:
            def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
                del module
                if output.requires_grad:
                    output.retain_grad()
                    self._seen[name] = (inputs[0].detach(), output)

            return hook

        handles = [layer.register_forward_hook(note(name)) for name, layer in _adapted_layers(model)]  # type: ignore[attr-defined]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._seen.clear()

    @override
    def gradients(self, model: nn.Module) -> dict[str, Tensor]:
        found = {}
        for name, _ in _adapted_layers(model):
            inputs, output = self._seen[name]
            assert output.grad is not None
            # dL/dW' of y = x W'ᵀ, summed over tokens.
            found[name] = output.grad.flatten(0, -2).mT.float() @ inputs.flatten(0, -2).float()
        return found


def _adapted_layers(model: nn.Module) -> list[tuple[str, Any]]:
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    if not layers:
        raise ConfigError("the effective weight is that of an adapted layer, and this model has no adapter.")
    return layers


def _effective_weight(name: str, layer: Any) -> Tensor:
    adapters = layer.active_adapters
    if isinstance(layer, SecuraLayer):
        return layer.effective_weight_with_gradient(adapters[0])
    if isinstance(layer, LoraLayer) and not any(layer.use_dora.get(adapter) for adapter in adapters):
        base: Any = layer.get_base_layer()
        weight = base.weight.detach()
        for adapter in adapters:
            weight = weight + layer.get_delta_weight(adapter)  # type: ignore[operator]  # of the subclass Linear
        return weight.T if layer.fan_in_fan_out else weight  # type: ignore[attr-defined]  # a Conv1D's is (in, out)
    raise ConfigError(
        f"the effective weight of {name}, a {type(layer).__name__}, is not known; use LoRA without DoRA, or a SECURA "
        "adapter, or protect the parameters instead."
    )
