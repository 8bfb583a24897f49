"""Columns and rows that a base leans on least on texts that it reads, and what is kept of them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from adapted_models import gpt2, llama, llama_config, logits, moved, saved_adapter, secura_layers
from peft import PeftModel, get_peft_model
from torch import Tensor
from torch.testing import assert_close

from secura import ConfigError
from secura.adapters import measure_activity

TEXTS = [[5, 9, 2, 33, 7], [8, 8, 41], [17, 3, 60, 1, 2, 3, 4]]


def seen_by(model: Any, name: str) -> tuple[Tensor, Tensor]:
    """What a layer reads and writes on all texts, kept whole."""
    kept: list[tuple[Tensor, Tensor]] = []
    layer = model.get_submodule(name)
    handle = layer.register_forward_hook(lambda _, given, output: kept.append((given[0][0], output[0])))
    with torch.no_grad():
        for text in TEXTS:
            model(torch.tensor([text]))
    handle.remove()
    return torch.cat([inputs for inputs, _ in kept]).double(), torch.cat([outputs for _, outputs in kept]).double()


@pytest.mark.parametrize(
    ("base", "name"), [(llama, "model.layers.1.self_attn.q_proj"), (gpt2, "transformer.h.1.attn.c_attn")]
)
def test_the_means_are_those_of_every_token_of_every_text(base: Any, name: str) -> None:
    config = llama_config(selection="activation")
    model = base().train()
    bias = model.get_submodule(name).bias
    if bias is not None:
        torch.nn.init.normal_(bias)
    measure_activity(model, config, TEXTS)
    assert model.training
    inputs, outputs = seen_by(model.eval(), name)
    outputs = outputs if bias is None else outputs - bias.detach()
    assert config.activity is not None
    assert_close(config.activity[name].inputs, inputs.square().mean(0), rtol=1e-5, atol=1e-9)
    assert_close(config.activity[name].outputs, outputs.square().mean(0), rtol=1e-5, atol=1e-9)


def test_the_columns_and_rows_are_those_that_add_and_answer_least() -> None:
    config = llama_config(selection="activation")
    measure_activity(llama(), config, TEXTS)
    model = get_peft_model(llama(), config)  # type: ignore[arg-type]
    for name in ("q_proj", "v_proj"):
        path = f"model.layers.1.self_attn.{name}"
        inputs, outputs = seen_by(llama(), path)
        layer: Any = model.get_base_model().get_submodule(path)
        weight = layer.base_layer.weight.double()
        adds = [(weight[:, j].norm() * inputs[:, j].square().mean().sqrt()).item() for j in range(weight.shape[1])]
        answers = [outputs[:, i].square().mean().item() for i in range(weight.shape[0])]
        assert layer.secura_columns["default"].tolist() == sorted(range(len(adds)), key=adds.__getitem__)[:4]
        assert layer.secura_rows["default"].tolist() == sorted(range(len(answers)), key=answers.__getitem__)[:4]


def test_they_are_others_than_those_of_least_norm() -> None:
    config = llama_config(selection="activation")
    measure_activity(llama(), config, TEXTS)
    ours = get_peft_model(llama(), config)  # type: ignore[arg-type]
    least = get_peft_model(llama(), llama_config())  # type: ignore[arg-type]
    pairs = list(zip(secura_layers(ours), secura_layers(least), strict=True))
    assert all(
        set(one.secura_rows["default"].tolist()) != set(two.secura_rows["default"].tolist()) for one, two in pairs
    )


def test_two_vectors_are_kept_of_each_layer() -> None:
    config = llama_config(selection="activation")
    measure_activity(llama(), config, TEXTS)
    assert config.activity is not None
    shapes = {name: (each.inputs.shape, each.outputs.shape) for name, each in config.activity.items()}
    assert shapes["model.layers.0.mlp.gate_proj"] == ((32,), (48,))
    assert len(shapes) == 2 * 7 + 1  # and the head


def test_a_saved_adapter_is_loaded_without_reading_anything(tmp_path: Path) -> None:
    config = llama_config(selection="activation")
    measure_activity(llama(), config, TEXTS)
    model = moved(get_peft_model(llama(), config)).eval()  # type: ignore[arg-type]
    loaded = PeftModel.from_pretrained(llama(), saved_adapter(model, tmp_path)).eval()  # type: ignore[arg-type]
    assert torch.equal(logits(loaded), logits(model))


def test_without_a_measurement_it_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"call secura\.adapters\.measure_activity"):
        get_peft_model(llama(), llama_config(selection="activation"))  # type: ignore[arg-type]


@pytest.mark.parametrize("texts", [[], [[]]])
def test_without_texts_it_is_refused(texts: list[list[int]]) -> None:
    with pytest.raises(ConfigError, match="needs texts for the base to read"):
        measure_activity(llama(), llama_config(selection="activation"), texts)


def test_a_base_that_answers_with_nan_is_refused_by_the_name_of_its_layer() -> None:
    model = llama()
    with torch.no_grad():
        model.model.layers[0].self_attn.k_proj.weight[3] = torch.nan
    with pytest.raises(ConfigError, match=r"layer model\.layers\.0\.self_attn\.k_proj reads or writes NaN"):
        measure_activity(model, llama_config(selection="activation"), TEXTS)
