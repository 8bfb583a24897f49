"""`adapter_names`: one adapter for each row of a batch."""

from typing import Any

import pytest
import torch
from adapted_models import (
    adapted,
    first_layer,
    gpt2,
    inputs,
    llama,
    llama_config,
    logits,
    moved,
    outputs,
    small_config,
    tokens,
    two_linears,
)
from peft import PeftModel, get_peft_model
from torch.testing import assert_close

from secura import fold

NAMES = ["default", "__base__", "second", "default", "third"]


def three_adapters(base: Any) -> PeftModel:
    model = adapted(base, llama_config())
    model.add_adapter("second", llama_config(change="cur", norm="none", output_bias=True))
    model.add_adapter("third", llama_config(change="low_rank", reference="moving", dropout=0.5))
    for seed, name in enumerate(("second", "third")):
        moved(model, seed=seed + 3, adapter_name=name)
    fold(model, "one", adapter_name="third")
    return model


def row_by_row(model: PeftModel, ids: torch.Tensor, names: list[str]) -> torch.Tensor:
    rows = []
    for row, name in zip(ids, names, strict=True):
        if name == "__base__":
            with model.disable_adapter():
                rows.append(logits(model, row[None]))
        else:
            model.set_adapter(name)
            rows.append(logits(model, row[None]))
    model.set_adapter("default")
    return torch.cat(rows)


@pytest.mark.parametrize("base", [llama, gpt2])
def test_every_row_gets_the_output_of_its_own_adapter(base: Any) -> None:
    model, ids = three_adapters(base()).eval(), tokens(rows=5)
    with torch.no_grad():
        mixed = model(ids, adapter_names=NAMES).logits
    expected = row_by_row(model, ids, NAMES)
    assert_close(mixed, expected, rtol=1e-4, atol=1e-5)


def test_base_rows_are_the_base_to_the_bit_and_leave_no_trace() -> None:
    model, ids = three_adapters(llama()).eval(), tokens(rows=5)
    before = logits(model, ids)
    with torch.no_grad():
        mixed = model(ids, adapter_names=["__base__"] * 5).logits
    assert torch.equal(mixed, logits(llama(), ids))
    assert torch.equal(logits(model, ids), before)


def test_generate_takes_adapter_names() -> None:
    model, prompt = three_adapters(llama()).eval(), tokens(rows=3, length=4)
    names = ["default", "__base__", "second"]
    settings: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False}
    mixed = model.generate(prompt, attention_mask=torch.ones_like(prompt), adapter_names=names, **settings)
    expected = row_by_row(model, mixed, names)[:, 3:-1].argmax(-1)
    assert torch.equal(mixed[:, 4:], expected)


@pytest.mark.parametrize("named_beams", [2, 3])
def test_beam_search_repeats_the_name_of_every_row(named_beams: int) -> None:
    model, prompt = three_adapters(llama()).eval(), tokens(rows=3, length=4)
    names = ["default", "__base__", "second"]
    settings: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "num_beams": named_beams}
    mixed = model.generate(prompt, attention_mask=torch.ones_like(prompt), adapter_names=names, **settings)
    for row, name in enumerate(names):
        single = prompt[row : row + 1]
        if name == "__base__":
            with model.disable_adapter():
                alone = model.generate(single, attention_mask=torch.ones_like(single), **settings)
        else:
            model.set_adapter(name)
            alone = model.generate(single, attention_mask=torch.ones_like(single), **settings)
        assert torch.equal(mixed[row], alone[0])


def test_modules_to_save_follow_the_row_too() -> None:
    model = get_peft_model(llama(), llama_config(modules_to_save=["lm_head"]))  # type: ignore[arg-type]
    model.add_adapter("second", llama_config(modules_to_save=["lm_head"]))
    model.add_adapter("without", llama_config())
    model.eval()
    for seed, name in enumerate(("default", "second", "without")):
        moved(model, seed=seed, adapter_name=name)  # type: ignore[arg-type]
    with torch.no_grad():
        model.get_submodule("base_model.model.lm_head.modules_to_save.second").weight.neg_()  # type: ignore[union-attr,operator]
    names, ids = ["default", "second", "__base__", "without"], tokens(rows=4)
    with torch.no_grad():
        mixed = model(ids, adapter_names=names).logits
    assert_close(mixed, row_by_row(model, ids, names), rtol=1e-4, atol=1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("norm", ["none", "bounded", "row_bounded"])
def test_a_16_bit_row_is_rounded_as_it_is_alone(dtype: torch.dtype, norm: str) -> None:
    layer, x = first_layer(adapted(two_linears(dtype=dtype), small_config(norm=norm))), inputs(4, 33, dtype=dtype)
    assert_close(layer(x, adapter_names=["default"] * 4), layer(x), rtol=0, atol=0)


def test_a_layer_takes_names_directly() -> None:
    layer = first_layer(adapted(two_linears(), small_config()))
    mixed = layer(inputs(2, 33), adapter_names=["__base__", "default"])
    assert_close(mixed[0], layer.base_layer(inputs(2, 33))[0])
    assert_close(mixed[1], layer(inputs(2, 33))[1])


def test_an_unknown_name_is_refused_by_name() -> None:
    model = three_adapters(llama()).eval()
    with pytest.raises(ValueError, match=r"non-existing adapter\(s\): fourth, other"):
        model(tokens(rows=3), adapter_names=["other", "default", "fourth"])
    assert torch.isfinite(logits(model)).all()


def test_training_mode_is_refused() -> None:
    model = three_adapters(llama()).train()
    with pytest.raises(ValueError, match="Cannot pass `adapter_names` when the model is in training mode"):
        model(tokens(rows=3), adapter_names=["default"] * 3)


def test_a_wrong_number_of_names_is_refused_with_both_numbers() -> None:
    model = three_adapters(llama()).eval()
    with pytest.raises(ValueError, match="but got 2 and 3 respectively"):
        model(tokens(rows=3), adapter_names=["default"] * 2)


def test_merged_adapters_are_refused() -> None:
    model = three_adapters(llama()).eval()
    model.merge_adapter(["default"])
    with pytest.raises(ValueError, match="when there are merged adapters, please call `unmerge_adapter` first"):
        model(tokens(rows=3), adapter_names=["default"] * 3)


def test_a_refusal_leaves_no_hook_behind() -> None:
    model = three_adapters(llama()).eval()
    before = logits(model)
    with pytest.raises(ValueError, match="respectively"):
        model(tokens(rows=3), adapter_names=["default"] * 2)
    assert torch.equal(logits(model), before)
    assert not first_layer(model)._forward_pre_hooks


def test_without_names_the_active_adapter_serves_every_row() -> None:
    model = adapted(two_linears(), small_config())
    model.add_adapter("second", small_config())
    moved(model, seed=9, adapter_name="second")
    assert torch.equal(outputs(model), outputs(adapted(two_linears(), small_config())))
