"""Quantized bases: a stand-in that implements PEFT's own interface, and bitsandbytes where it is installed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from adapted_models import adapted, first_layer, inputs, moved, outputs, secura_layers, small_config, two_linears
from peft import PeftModel, get_peft_model
from peft.utils.quantization_utils import (
    ForwardOnlyQuantizationBackend,
    QuantizationBackend,
    resolve_quantization_backend,
)
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close

from secura import BaseMismatchError, ConfigError, fold, undo
from secura.adapters.secura import layer as layer_file
from secura.adapters.secura import model as model_file


class HQQLinear(nn.Module):
    """A stand-in under HQQ's class name: int8 codes in `W_q` and one step size a row, and no `weight`."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.step = weight.abs().amax(dim=1, keepdim=True) / 127
        self.W_q = nn.Parameter((weight / self.step).round().to(torch.int8), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias)

    def dequantize(self) -> Tensor:
        return self.W_q.float() * self.step

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.dequantize(), self.bias)


class GptqLinear(HQQLinear):
    """A stand-in for a layer that can compute, but not give its weight away."""


class Int8Backend(QuantizationBackend):
    supports_merge = True
    backend_name = "int8 stand-in"
    layer_type = "linear"

    def get_base_weight(self, base_layer: nn.Module) -> Tensor:
        assert isinstance(base_layer, HQQLinear)
        return base_layer.dequantize()

    def set_base_weight(self, peft_layer: Any, weight_data: Tensor) -> None:
        peft_layer.base_layer = HQQLinear(weight_data, peft_layer.get_base_layer().bias)


@pytest.fixture(autouse=True)
def stand_ins_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(base_layer: nn.Module, **kwargs: Any) -> QuantizationBackend | None:
        if isinstance(base_layer, GptqLinear):
            return ForwardOnlyQuantizationBackend("gptq")
        return (
            Int8Backend() if isinstance(base_layer, HQQLinear) else resolve_quantization_backend(base_layer, **kwargs)
        )

    for module in (layer_file, model_file):
        monkeypatch.setattr(module, "resolve_quantization_backend", resolve)


def quantized(kind: type[HQQLinear] = HQQLinear, seed: int = 0) -> Any:
    model = two_linears(seed)
    for name in ("first", "second"):
        linear = getattr(model, name)
        setattr(model, name, kind(linear.weight.detach(), None if linear.bias is None else linear.bias.detach()))
    return model


def dequantized(seed: int = 0) -> Any:
    """The same weights in float32."""
    model, small = two_linears(seed), quantized(seed=seed)
    with torch.no_grad():
        for name in ("first", "second"):
            getattr(model, name).weight.copy_(getattr(small, name).dequantize())
    return model


@pytest.mark.parametrize("norm", ["none", "paper", "released", "bounded", "row_bounded"])
@pytest.mark.parametrize("change", ["cabr", "cur", "low_rank"])
def test_a_quantized_layer_computes_what_its_dequantized_weight_does(change: str, norm: str) -> None:
    config = small_config(change=change, norm=norm)
    model, plain = adapted(quantized(), config), adapted(dequantized(), config)
    assert_close(outputs(model), outputs(plain))
    with model.disable_adapter():
        assert torch.equal(outputs(model), outputs(quantized()))


@pytest.mark.parametrize("norm", ["none", "paper", "bounded", "row_bounded"])
def test_a_fresh_adapter_on_a_quantized_layer_is_the_base(norm: str) -> None:
    assert torch.equal(outputs(adapted(quantized(), small_config(norm=norm), seed=None)), outputs(quantized()))


def test_c_and_r_are_gathered_from_the_dequantized_weight() -> None:
    layer = first_layer(adapted(quantized(), small_config()))
    weight = quantized().first.dequantize()
    frozen = layer._frozen_factors("default")
    assert torch.equal(frozen.columns, weight[:, layer.secura_columns["default"]])
    assert torch.equal(frozen.rows, weight[layer.secura_rows["default"]])
    assert torch.equal(layer.secura_columns["default"], weight.norm(dim=0).argsort(stable=True)[:4])


@pytest.mark.parametrize("reference", ["fixed", "moving"])
def test_a_quantized_layer_trains_folds_and_undoes(reference: str) -> None:
    config = small_config(reference=reference)
    model, plain = adapted(quantized(), config), adapted(dequantized(), config)
    for one in (model, plain):
        fold(one, "one")
        moved(one, seed=4)
        one(inputs()).square().sum().backward()
    for mine, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        if mine.requires_grad:
            assert_close(mine.grad, theirs.grad)
    undo(model, "one")
    undo(plain, "one")
    assert_close(outputs(model), outputs(plain))


def test_a_forward_pass_dequantizes_once(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = first_layer(adapted(quantized(), small_config()))
    layer(inputs())  # C and R are gathered at the first
    seen: list[nn.Module] = []
    dequantize = HQQLinear.dequantize
    monkeypatch.setattr(HQQLinear, "dequantize", lambda self: seen.append(self) or dequantize(self))
    layer._residual(inputs(), torch.zeros(5, 17), "default")
    assert len(seen) == 1


def test_a_merge_quantizes_again_and_unmerging_restores_every_bit() -> None:
    model = adapted(quantized(), small_config(output_bias=True, target_modules=["first"]))
    layer, before = first_layer(model), outputs(model)
    codes, original = layer.get_base_layer().W_q.clone(), layer.get_base_layer()
    expected, bias = layer.effective_weight("default"), original.bias + layer.secura_change["default"].bias
    model.merge_adapter()
    merged = layer.get_base_layer()
    assert isinstance(merged, HQQLinear)
    assert ((merged.dequantize() - expected).abs() <= 0.51 * merged.step).all()  # half a step of rounding
    assert_close(merged.bias, bias)
    assert_close(outputs(model), before, rtol=0.05, atol=0.05)  # int8 holds 7 bits
    assert torch.equal(layer.effective_weight("default"), expected)
    model.unmerge_adapter()
    assert layer.get_base_layer() is original
    assert torch.equal(original.W_q, codes)
    assert torch.equal(outputs(model), before)


def test_two_adapters_merged_in_turn_quantize_their_sum_once() -> None:
    model = adapted(quantized(), small_config())
    model.add_adapter("other", small_config(change="cur", norm="none"))
    moved(model, seed=6, adapter_name="other")
    layer = first_layer(model)
    weight = quantized().first.dequantize()
    both = weight + layer.get_delta_weight("default") + layer.get_delta_weight("other")
    model.merge_adapter(["default"])
    model.merge_adapter(["other"])
    merged = layer.get_base_layer()
    assert ((merged.dequantize() - both).abs() <= 0.51 * merged.step).all()
    model.unmerge_adapter()
    assert torch.equal(layer.get_base_layer().dequantize(), weight)


@pytest.mark.parametrize("change", ["cabr", "low_rank"])
def test_an_adapter_of_a_quantized_base_comes_back_and_knows_its_base(tmp_path: Path, change: str) -> None:
    model = adapted(quantized(), small_config(change=change))
    fold(model, "one")
    moved(model, seed=4)
    model.save_pretrained(tmp_path)
    assert torch.equal(outputs(PeftModel.from_pretrained(quantized(), tmp_path)), outputs(model))
    with pytest.raises(BaseMismatchError, match="the weight of first is not the one"):
        PeftModel.from_pretrained(quantized(seed=9), tmp_path)


@pytest.mark.parametrize("change", ["cabr", "low_rank"])
def test_an_adapter_of_a_quantized_base_loads_on_the_plain_one_with_a_word(tmp_path: Path, change: str) -> None:
    model = moved(adapted(quantized(), small_config(change=change)), seed=4)
    model.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="trained on a base in fewer bits"):
        plain = PeftModel.from_pretrained(two_linears(0), tmp_path)
    torch.testing.assert_close(outputs(plain), outputs(model), atol=0.1, rtol=0)
    assert not torch.equal(outputs(plain), outputs(model))


def test_one_of_a_plain_base_is_refused_on_the_quantized_one(tmp_path: Path) -> None:
    adapted(two_linears(0), small_config()).save_pretrained(tmp_path)
    with pytest.raises(BaseMismatchError, match="the weight of first is not the one"):
        PeftModel.from_pretrained(quantized(), tmp_path)


def test_mixed_batches_work_on_a_quantized_base() -> None:
    model = adapted(quantized(), small_config())
    layer = first_layer(model)
    mixed = layer(inputs(2, 33), adapter_names=["__base__", "default"])
    assert_close(mixed[0], layer.base_layer(inputs(2, 33))[0])
    assert_close(mixed[1], layer(inputs(2, 33))[1])


@pytest.mark.filterwarnings("ignore:Unsupported layer type")  # PEFT's word for the stand-in
@pytest.mark.parametrize("change", ["cabr", "low_rank"])
def test_a_layer_that_cannot_be_dequantized_is_refused_with_the_way_out(change: str) -> None:
    message = r"layers quantized by gptq cannot be dequantized.*use an 8-bit or 4-bit bitsandbytes, HQQ or torchao base"
    with pytest.raises(ConfigError, match=message):
        get_peft_model(quantized(GptqLinear), small_config(change=change))  # type: ignore[arg-type]


# ------------------------------------------------------------------ bitsandbytes


def bitsandbytes_model(kind: str) -> Any:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    model = nn.Sequential(nn.Linear(128, 64), nn.Linear(64, 128, bias=False))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2, generator=generator)
    for index, linear in enumerate(model):
        arguments: dict[str, Any] = {"bias": linear.bias is not None}
        if kind == "8bit":
            small = bitsandbytes.nn.Linear8bitLt(
                linear.in_features, linear.out_features, has_fp16_weights=False, **arguments
            )
        else:
            small = bitsandbytes.nn.Linear4bit(
                linear.in_features, linear.out_features, compute_dtype=torch.float32, quant_type=kind, **arguments
            )
        small.load_state_dict(linear.state_dict())
        model[index] = small.to("cpu")
    return model.eval()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["nf4", "fp4", "8bit"])
@pytest.mark.parametrize("norm", ["none", "bounded", "row_bounded"])
def test_bitsandbytes_layers_start_train_merge_and_reload(tmp_path: Path, kind: str, norm: str) -> None:
    config = small_config(norm=norm, target_modules=["0", "1"])
    x = inputs(5, 128)
    model = adapted(bitsandbytes_model(kind), config, seed=None)
    fresh = outputs(model, x)
    with model.disable_adapter():
        base_output = outputs(model, x)
    assert torch.equal(fresh, base_output)
    moved(model)
    model(x).square().sum().backward()
    for layer in secura_layers(model):
        for parameter in layer.secura_change.parameters():  # type: ignore[attr-defined]
            assert parameter.grad is not None
            assert torch.isfinite(parameter.grad).all()
    before = outputs(model, x)
    layer, delta = first_layer(model), first_layer(model).get_delta_weight("default")
    assert_close(layer(x) - layer.base_layer(x), x @ delta.T, rtol=1e-2, atol=1e-2)
    with model.disable_adapter():
        assert torch.equal(outputs(model, x), base_output)
    model.merge_adapter()
    assert (outputs(model, x) - before).norm() < (0.05 if kind == "8bit" else 0.3) * before.norm()
    model.unmerge_adapter()
    assert torch.equal(outputs(model, x), before)
    model.save_pretrained(tmp_path)
    assert torch.equal(outputs(PeftModel.from_pretrained(bitsandbytes_model(kind), tmp_path), x), before)


@pytest.mark.filterwarnings("ignore")
def test_a_4_bit_layer_that_bitsandbytes_has_repacked_is_refused() -> None:
    base = bitsandbytes_model("nf4")
    outputs(base, inputs(5, 128))
    if not getattr(base[0].weight.quant_state, "packing_format_for_cpu", False):
        pytest.skip("bitsandbytes repacks on CPUs with AVX-512 BF16 only")
    with pytest.raises(ConfigError, match="attach the adapter before its first forward pass"):
        get_peft_model(base, small_config(target_modules=["0"]))
