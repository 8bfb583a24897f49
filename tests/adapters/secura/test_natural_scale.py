"""The same learning rate moves every model by the same share a step, and an adapter keeps its scale."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted_models import (
    adapted,
    first_layer,
    llama,
    llama_config,
    logits,
    moved,
    saved_adapter,
    secura_layers,
    tokens,
)
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_models import ARCHITECTURES, tiny_model
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import LlamaConfig, LlamaForCausalLM

from secura import SecuraConfig, fold
from secura.numerics.change import weight_change
from secura.numerics.natural_scale import natural_size

CHANGES = [
    {"change": "cabr", "norm": "none"},
    {"change": "cabr", "norm": "bounded"},
    {"change": "cabr", "norm": "row_bounded"},
    {"change": "cabr", "norm": "paper"},
    {"change": "cur", "norm": "none"},
    {"change": "low_rank", "norm": "bounded"},
    {"change": "low_rank", "norm": "row_bounded"},
]
RATE = 1e-2


def relative_moves(base: Any, choice: dict[str, Any], steps: int = 1) -> list[float]:
    """How far AdamW moves D on each layer, as a share of its natural size and of the rate, from random gradients."""
    torch.manual_seed(0)
    model = get_peft_model(base, SecuraConfig(r=4, inner_r=16, target_modules="all-linear", **choice))  # type: ignore[arg-type]
    trained = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0)
    for _ in range(steps):
        for one in trained:
            one.grad = torch.randn(one.shape, generator=torch.Generator().manual_seed(one.numel()))
        optimizer.step()
    moves = []
    for layer in secura_layers(model):
        change, settings = weight_change(layer._thin_factors("default")), layer.secura_settings["default"]
        size = natural_size(layer._pretrained_weight(), settings.weight_norm or settings.row_bound)
        moves.append(change.square().mean().sqrt().item() / size / RATE)
    return moves


def wide_llama(width: int) -> Any:
    torch.manual_seed(1)
    heads = max(1, width // 64)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=1,
            num_attention_heads=heads,
            num_key_value_heads=heads,
        )
    )


def ten_times_as_large(base: Any) -> Any:
    with torch.no_grad():
        for weight in base.parameters():
            weight.mul_(10)
    return base


@pytest.mark.parametrize("choice", CHANGES, ids=lambda choice: "-".join(choice.values()))
@pytest.mark.parametrize("width", [64, 256, pytest.param(2048, marks=pytest.mark.slow)])
def test_a_step_moves_each_layer_by_the_rate_whatever_its_width(width: int, choice: dict[str, Any]) -> None:
    for move in relative_moves(wide_llama(width), choice):
        assert 0.6 < move < 1.6  # one draw of signs, about its expectation


@pytest.mark.parametrize("choice", CHANGES, ids=lambda choice: "-".join(choice.values()))
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_step_moves_each_layer_by_the_rate_whatever_the_architecture(
    architecture: str, choice: dict[str, Any]
) -> None:
    for move in relative_moves(tiny_model(architecture), choice):
        assert 0.6 < move < 1.6


@pytest.mark.parametrize("choice", CHANGES, ids=lambda choice: "-".join(choice.values()))
def test_weights_ten_times_as_large_move_by_the_same_share_at_every_step(choice: dict[str, Any]) -> None:
    for steps in (1, 5):
        expected = relative_moves(llama(), choice, steps)
        assert relative_moves(ten_times_as_large(llama()), choice, steps) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("change", ["cabr", "cur", "low_rank"])
def test_the_scale_is_read_and_not_computed_again(tmp_path: Path, change: str) -> None:
    model = adapted(llama(), llama_config(change=change))
    fold(model, "one")
    moved(model, seed=5)
    for layer in secura_layers(model):
        settings = layer.secura_settings["default"]
        object.__setattr__(settings, "scale", settings.scale * 0.37)  # one that no rule would give
        layer.forget_what_was_derived()
    expected = logits(model)
    folder = saved_adapter(model, tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(llama(), folder).eval()), expected)
    taken = get_peft_model(llama(), llama_config(change=change))
    taken.load_adapter(str(folder), "default")
    assert torch.equal(logits(taken.eval()), expected)


def test_an_adapter_that_was_saved_before_there_were_scales_has_none(tmp_path: Path) -> None:
    model = adapted(llama(), llama_config(scale="plain"))
    expected, folder = logits(model), saved_adapter(model, tmp_path)
    settings = json.loads((folder / "adapter_config.json").read_text())
    del settings["scale"], settings["saved"]["seal"], settings["saved"]["base"]
    for record in settings["saved"]["layers"].values():
        del record["scale"]
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    file = folder / "adapter_model.safetensors"
    save_file(
        {key: value for key, value in load_file(file).items() if not key.endswith(("scale", "seal", "base"))}, file
    )
    with pytest.warns(UserWarning, match="was saved without a seal"):
        assert torch.equal(logits(PeftModel.from_pretrained(llama(), folder).eval()), expected)


def test_plain_multiplies_by_nothing() -> None:
    layer = first_layer(get_peft_model(llama(), llama_config(scale="plain")))  # type: ignore[arg-type]
    assert layer.secura_settings["default"].multiplier == 1.0


def test_a_layer_of_zeros_takes_a_step_without_a_number_that_is_none() -> None:
    base = llama()
    with torch.no_grad():
        base.model.layers[0].self_attn.q_proj.weight.zero_()
    model = get_peft_model(base, llama_config(init_weights=False))  # type: ignore[arg-type]
    assert torch.isfinite(model(tokens()).logits).all()


class Rescaled(nn.Module):
    """A linear layer of enormous weights whose output is made ordinary again."""

    def __init__(self, size: float) -> None:
        super().__init__()
        self.size, self.linear = size, nn.Linear(33, 17, bias=False)
        draws = torch.randn(17, 33, generator=torch.Generator().manual_seed(1))
        self.linear.weight = nn.Parameter(size * draws)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.linear(inputs) / self.size


@pytest.mark.parametrize("preset", ["secura", "bounded-lora", "cur-lora"])
def test_a_layer_of_enormous_weights_learns_as_the_same_layer_of_ordinary_ones(preset: str) -> None:
    losses = []
    for size in (1.0, 1e34):  # squares of the latter overflow in float32
        torch.manual_seed(0)
        adapted = get_peft_model(Rescaled(size), SecuraConfig.preset(preset, target_modules=["linear"], r=4))
        draw = torch.Generator().manual_seed(2)
        inputs, targets = torch.randn(64, 33, generator=draw), torch.randn(64, 17, generator=draw)
        trained = [each for each in adapted.parameters() if each.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=0.1, weight_decay=0)
        for _ in range(4):
            optimizer.zero_grad()
            loss = (adapted(inputs) - targets).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[3] < losses[0] - 0.1
    assert_close(losses[4:], losses[:4], rtol=1e-4, atol=0)
