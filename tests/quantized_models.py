"""A way of quantizing that needs no package: int8 rows, by the interfaces that transformers and PEFT offer."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.utils.quantization_utils import QuantizationBackend, resolve_quantization_backend
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from secura.adapters.secura import layer as layer_file
from secura.adapters.secura import model as model_file

METHOD = "int8-rows"


class Int8Linear(nn.Module):
    """Codes and one step size a row."""

    def __init__(self, weight: Tensor, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.step = nn.Parameter(weight.abs().amax(dim=1, keepdim=True) / 127, requires_grad=False)
        self.codes = nn.Parameter((weight / self.step).round().to(torch.int8), requires_grad=False)
        self.bias = bias

    def dequantize(self) -> Tensor:
        return self.codes.to(self.step.dtype) * self.step

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.dequantize(), self.bias)


@register_quantization_config(METHOD)
class Int8RowsConfig(QuantizationConfigMixin):
    def __init__(self, **kwargs: Any) -> None:
        self.quant_method = METHOD  # type: ignore[assignment]


@register_quantizer(METHOD)
class Int8RowsQuantizer(HfQuantizer):
    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        return _replaced(model, nn.Linear, lambda old: Int8Linear(old.weight.detach(), old.bias))

    def _dequantize(self, model: PreTrainedModel, dtype: torch.dtype | None = None) -> PreTrainedModel:
        return _replaced(model, Int8Linear, _plain)

    def is_serializable(self) -> bool:
        return False

    @property
    def is_trainable(self) -> bool:
        return True


class Int8Backend(QuantizationBackend):
    supports_merge = True
    backend_name = METHOD
    layer_type = "linear"

    def get_base_weight(self, base_layer: nn.Module) -> Tensor:
        assert isinstance(base_layer, Int8Linear)
        return base_layer.dequantize()

    def set_base_weight(self, peft_layer: Any, weight_data: Tensor) -> None:
        peft_layer.base_layer = Int8Linear(weight_data, peft_layer.get_base_layer().bias)


def teach_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let SECURA's layers find the backend."""

    def resolve(base_layer: nn.Module, **kwargs: Any) -> QuantizationBackend | None:
        return (
            Int8Backend() if isinstance(base_layer, Int8Linear) else resolve_quantization_backend(base_layer, **kwargs)
        )

    for module in (layer_file, model_file):
        monkeypatch.setattr(module, "resolve_quantization_backend", resolve)


def store_quantized(folder: Path) -> None:
    """Have a saved model be quantized whenever it is loaded."""
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "quantization_config": {"quant_method": METHOD}}))


def _plain(old: Int8Linear) -> nn.Linear:
    new = nn.Linear(old.in_features, old.out_features, bias=old.bias is not None)
    new.weight = nn.Parameter(old.dequantize(), requires_grad=False)
    if old.bias is not None:
        new.bias = old.bias
    return new


def _replaced(model: PreTrainedModel, kind: type[nn.Module], made_of: Any) -> PreTrainedModel:
    for name, module in list(model.named_modules()):
        if type(module) is kind and name != "lm_head":
            model.set_submodule(name, made_of(module))
    return model
