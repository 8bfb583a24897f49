"""The bound on rows as a layer computes it: at LoRA's cost, and a LoRA of rank r whatever was folded."""

from typing import Any

import pytest
import torch
from adapted_models import (
    adapted,
    first_layer,
    inputs,
    llama,
    llama_config,
    logits,
    moved,
    outputs,
    secura_layers,
    small_config,
    tokens,
    two_linears,
)
from peft import PeftModel
from references import formulas
from torch import Tensor
from torch.nn import functional
from torch.testing import assert_close

from secura import fold, undo
from secura.export.lora import as_lora

CHANGES = ["cabr", "cur", "low_rank"]
REFERENCES = [("fixed", "keep"), ("moving", "keep"), ("moving", "undamped")]


def folded(change: str, reference: str, fold_as: str, base: Any = None, **settings: Any) -> PeftModel:
    """A model with two folded tasks and something learned since."""
    choice = {"change": change, "norm": "row_bounded", "reference": reference, "fold": fold_as, "tau": 0.2}
    model = adapted(two_linears() if base is None else base, small_config(**choice, **settings))
    fold(model, "first")
    fold(moved(model, seed=3), "second")
    return moved(model, seed=4)


def far_moved() -> PeftModel:
    """A model whose D is many times its limit in every row."""
    model = adapted(two_linears(), small_config(norm="row_bounded", tau=0.2))
    with torch.no_grad():
        for layer in secura_layers(model):
            layer._change("default").starting_factors()[1].mul_(1000)
    return model


def learned(layer: Any) -> tuple[list[Tensor], Tensor]:
    """Each fold's change, and what is under training alone, written out in full."""
    stored = layer._folded_factors("default", layer._ledger("default").folds())
    folds = [each.left @ each.right for each in stored]
    thin = layer._change("default").thin_factors(
        layer._frozen_factors("default"), [], layer.secura_settings["default"].multiplier
    )
    return [each.detach().double() for each in folds], (thin.left @ thin.right).detach().double()


@pytest.mark.parametrize(("reference", "fold_as"), REFERENCES)
@pytest.mark.parametrize("change", CHANGES)
def test_the_layer_is_the_formula_after_folds_too(change: str, reference: str, fold_as: str) -> None:
    layer = first_layer(folded(change, reference, fold_as))
    folds, current = learned(layer)
    weight = layer.base_layer.weight.double().tolist()
    if reference == "fixed":
        current = current + torch.stack(folds).sum(0)
    else:
        for each in folds:
            weight = (
                formulas.add(weight, each.tolist())
                if fold_as == "undamped"
                else formulas.row_bounded(weight, each.tolist(), 0.2)
            )
    expected = torch.tensor(formulas.row_bounded(weight, current.tolist(), 0.2))  # float32 by default
    assert_close(layer.effective_weight("default"), expected, rtol=1e-4, atol=1e-5)
    assert_close(layer(inputs()), functional.linear(inputs(), expected, layer.base_layer.bias), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("reference", "fold_as"), REFERENCES)
@pytest.mark.parametrize("change", ["cabr", "cur"])
def test_folds_of_a_cur_change_keep_its_rank(change: str, reference: str, fold_as: str) -> None:
    model = folded(change, reference, fold_as)
    for layer in secura_layers(model):
        factors = layer.low_rank_change("default")
        assert factors is not None
        assert len(factors.right) == 4
        weight: Any = layer.get_base_layer().weight
        assert_close(layer.effective_weight("default") - weight, factors.left @ factors.right, rtol=1e-4, atol=1e-6)


def test_undoing_a_fold_is_as_if_it_had_never_been() -> None:
    model = folded("cabr", "moving", "keep")
    before = outputs(model)
    undo(model, "second")
    assert (outputs(model) - before).abs().max() > 1e-3
    layer = first_layer(model)
    (first,), current = learned(layer)
    reference = formulas.row_bounded(layer.base_layer.weight.double().tolist(), first.tolist(), 0.2)
    expected = torch.tensor(formulas.row_bounded(reference, current.tolist(), 0.2))
    assert_close(layer.effective_weight("default"), expected.float(), rtol=1e-4, atol=1e-5)


def test_no_row_of_a_trained_layer_moves_by_more_than_its_share() -> None:
    model = far_moved()
    for layer in secura_layers(model):
        weight: Any = layer.get_base_layer().weight
        moves = (layer.effective_weight("default") - weight).norm(dim=1) / weight.norm(dim=1)
        assert moves.max() <= 0.2 * (1 + 1e-5)
        assert moves.min() > 0.19


@pytest.mark.parametrize("base_dtype", [torch.float32, torch.bfloat16])
def test_the_bound_is_computed_without_autocast(base_dtype: torch.dtype) -> None:
    layer = first_layer(adapted(two_linears(dtype=base_dtype), small_config(norm="row_bounded", tau=0.2)))
    expected = layer._factors_in_force("default")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = layer._factors_in_force("default")
    assert found.left.dtype == expected.left.dtype
    assert torch.equal(found.left, expected.left)


def test_a_model_that_first_inferred_can_learn() -> None:
    model = adapted(llama(), llama_config(norm="row_bounded"))
    with torch.inference_mode():
        model(tokens())
    model(tokens(), labels=tokens()).loss.backward()
    assert all(one.grad is not None for one in model.parameters() if one.requires_grad)


def test_limits_follow_a_base_weight_that_is_written_to() -> None:
    model = far_moved()
    layer = first_layer(model)
    outputs(model)
    with torch.no_grad():
        layer.base_layer.weight.mul_(3)
    change = layer.effective_weight("default") - layer.base_layer.weight
    assert_close(change.norm(dim=1), 0.2 * layer.base_layer.weight.norm(dim=1), rtol=0.05, atol=0)


@pytest.mark.parametrize("change", ["cabr", "cur"])
@pytest.mark.parametrize("norm", ["none", "row_bounded"])
def test_the_inputs_of_a_cur_layer_are_not_kept_for_the_backward_pass(norm: str, change: str) -> None:
    layer = first_layer(adapted(two_linears(), small_config(norm=norm, change=change)))
    x = inputs(64, 33)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda each: kept.append(each.data_ptr()) or each, lambda each: each):
        layer(x)
    assert x.data_ptr() not in kept


@pytest.mark.parametrize(("reference", "fold_as"), REFERENCES)
@pytest.mark.parametrize("change", CHANGES)
def test_it_exports_as_an_exact_lora_whatever_was_folded(change: str, reference: str, fold_as: str) -> None:
    config = {"change": change, "norm": "row_bounded", "reference": reference, "fold": fold_as}
    model = adapted(llama(), llama_config(**config))
    fold(model, "first")
    lora = as_lora(moved(model, seed=5))
    assert lora.exact
    assert max(layer.rank for layer in lora.layers) == (4 if change != "low_rank" else 8)


def test_a_fold_that_is_kept_leaves_every_logit() -> None:
    model = adapted(llama(), llama_config(norm="row_bounded", reference="moving"))
    before = logits(model)
    fold(model, "one")
    assert torch.equal(logits(model), before)
