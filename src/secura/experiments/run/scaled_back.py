"""The model of a run with what it has learned scaled, whatever its method."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from peft import PeftModel
from torch import Tensor

from secura.adapters.dial import draw_back_, scaled
from secura.evaluation.scoring import Model
from secura.experiments.models.loading import load_model
from secura.experiments.settings.run import ModelConfig


@contextmanager
def scaled_back(model: Model, scale: float, base: Mapping[str, Tensor] | None) -> Iterator[None]:
    """The model with its change scaled; afterwards it is as before, to the bit.

    Args:
        model: with its adapter, or trained whole.
        scale: 0 is the base, 1 all that was learned.
        base: the base's weights by name, where all of them are trained; see `base_weights`.

    Raises:
        ConfigError: for a method whose change cannot be scaled.
    """
    if scale == 1:
        yield
    elif isinstance(model, PeftModel):
        with scaled(model, scale):
            yield
    else:
        assert base is not None
        trained = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        try:
            draw_back_(model, base, scale)
            yield
        finally:
            with torch.no_grad():
                for name, weight in model.named_parameters():
                    weight.copy_(trained[name])


def base_weights(model: Model, config: ModelConfig) -> Mapping[str, Tensor] | None:
    """The base's weights, read again where training has overwritten them; None beside an adapter."""
    return None if isinstance(model, PeftModel) else dict(load_model(config)[0].named_parameters())
