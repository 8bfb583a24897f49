import time
from collections import OrderedDict
from typing import Any

import pytest
import torch
from adapted_models import (
    COMBINATIONS,
    WEIGHT_SPACE,
    adapted,
    crossed,
    first_layer,
    inputs,
    llama,
    llama_config,
    logits,
    moved,
    one_conv1d,
    outputs,
    secura_layers,
    small_config,
    two_linears,
)
from references import formulas
from torch import Tensor, nn
from torch.testing import assert_close

from secura import FoldError, SecuraConfig, fold, folded_tasks, undo
from secura.adapters.dial import scaled
from secura.adapters.secura.factors import CabrFactors, CurFactors, LowRankFactors
from secura.numerics.change import weight_change

KEEPING = [choice for choice in COMBINATIONS if choice["fold"] == "keep"]
UNDAMPED = [choice for choice in WEIGHT_SPACE if choice["fold"] == "undamped"]
CABR = [choice for choice in WEIGHT_SPACE if choice["change"] == "cabr"]


def trained_change(layer: Any) -> Tensor:
    """D of what is under training alone, by the formula."""
    factors, weight = layer.secura_change["default"], layer._pretrained_weight()
    scale = layer.secura_settings["default"].multiplier
    if hasattr(factors, "down"):
        return scale * (factors.up @ factors.down).detach()
    core = factors.inner @ factors.outer if hasattr(factors, "inner") else factors.core
    columns, rows = layer.secura_columns["default"], layer.secura_rows["default"]
    return scale * (weight[:, columns] @ core @ weight[rows]).detach()


def composed(layer: Any, changes: list[Tensor]) -> Tensor:
    """The weight that folded changes leave behind, by the formula of each fold and reference."""
    settings, weight = layer.secura_settings["default"], layer._pretrained_weight()
    bound, norm = settings.row_bound, settings.weight_norm
    if (bound is None and norm is None) or settings.undamped:
        return weight + sum(changes)
    for change in changes if settings.moving else [sum(changes)]:
        if bound is None:
            weight = norm.constrain(weight, change)
        else:
            weight = torch.tensor(formulas.row_bounded(weight.tolist(), change.tolist(), bound.tau))
    return weight


def fold_three(model: Any) -> list[Tensor]:
    """Fold tasks one, two and three; the change of each on the first layer."""
    changes = []
    for seed, task in enumerate(("one", "two", "three")):
        moved(model, seed=seed + 20)
        changes.append(trained_change(first_layer(model)))
        fold(model, task)
    return changes


# ------------------------------------------------------------------ keep


@pytest.mark.parametrize("base", [two_linears, one_conv1d])
@crossed(KEEPING)
def test_a_fold_that_keeps_leaves_the_outputs_to_the_bit(base: Any, choice: dict[str, str]) -> None:
    model = adapted(base(), small_config(**choice, alpha=6.0))
    for seed, task in enumerate(("one", "two", "two")):
        moved(model, seed=seed + 10)
        before = outputs(model)
        fold(model, task)
        if choice["change"] == "low_rank":  # a longer inner dimension may be summed in another order
            assert_close(outputs(model), before)
        else:
            assert torch.equal(outputs(model), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@crossed([one for one in KEEPING if one["change"] == "cabr"])
def test_a_fold_that_keeps_does_so_on_a_16_bit_base(dtype: torch.dtype, choice: dict[str, str]) -> None:
    x = inputs(dtype=dtype)
    model = adapted(two_linears(dtype=dtype), small_config(**choice))
    for task in ("one", "two"):
        before = outputs(model, x)
        fold(model, task)
        assert_close(outputs(model, x), before)
        moved(model, seed=12)


def test_a_language_model_keeps_its_logits_over_a_fold() -> None:
    model = adapted(llama(), llama_config(norm="bounded", reference="moving"))
    before = logits(model)
    fold(model, "one")
    assert torch.equal(logits(model), before)


# ------------------------------------------------------------------ undamped


@crossed(UNDAMPED)
def test_an_undamped_fold_is_the_base_plus_the_change_without_its_norm(choice: dict[str, str]) -> None:
    model = adapted(two_linears(), small_config(**choice))
    layer, before = first_layer(model), outputs(model)
    change = trained_change(layer)
    fold(model, "one")
    assert_close(layer.effective_weight("default"), layer._pretrained_weight() + change)
    jump = (outputs(model) - before).abs().max()
    assert jump > 1e-3 if choice["norm"] != "none" else jump < 1e-5


@pytest.mark.parametrize("change", ["cabr", "cur", "low_rank"])
def test_an_undamped_fold_of_released_moves_the_reference_output(change: str) -> None:
    model = adapted(two_linears(), small_config(change=change, norm="released", reference="moving", fold="undamped"))
    layer = first_layer(model)
    expected = layer.base_layer(inputs()) + inputs() @ trained_change(layer).T
    fold(model, "one")
    assert_close(layer(inputs()), expected)


# ------------------------------------------------------------------ undo


@crossed(WEIGHT_SPACE)
def test_folds_compose_by_the_formula_and_any_task_can_be_taken_out(choice: dict[str, str]) -> None:
    model = adapted(two_linears(), small_config(**choice, alpha=6.0), seed=None)
    layer = first_layer(model)
    one, two, three = fold_three(model)
    assert_close(layer.effective_weight("default"), composed(layer, [one, two, three]))
    undo(model, "two")
    assert folded_tasks(model) == ["one", "three"]
    assert_close(layer.effective_weight("default"), composed(layer, [one, three]))
    undo(model, "three")
    assert_close(layer.effective_weight("default"), composed(layer, [one]))


@crossed(COMBINATIONS)
def test_undoing_the_last_task_gives_the_model_before_it_and_undoing_all_the_base(choice: dict[str, str]) -> None:
    model = adapted(two_linears(), small_config(**choice))
    fold(model, "one")
    after_one = outputs(model)
    moved(model, seed=5)
    fold(model, "two")
    assert (outputs(model) - after_one).abs().max() > 1e-3
    undo(model, "two")
    assert torch.equal(outputs(model), after_one)
    undo(model, "one")
    assert torch.equal(outputs(model), outputs(two_linears()))


def test_undo_takes_every_fold_of_a_task() -> None:
    model = adapted(two_linears(), small_config(reference="moving"))
    for task in ("one", "two", "one"):
        fold(model, task)
        moved(model, seed=8)
    undo(model, "one")
    assert folded_tasks(model) == ["two"]


# ------------------------------------------------------------------ storage


@crossed(CABR)
def test_folding_a_task_at_every_step_stores_one_matrix_where_folds_add_up_and_one_stack_otherwise(
    choice: dict[str, str],
) -> None:
    model = adapted(two_linears(), small_config(**choice))
    expected = [outputs(model)]
    for seed in range(4):
        moved(model, seed=seed)
        expected = [outputs(model)]
        fold(model, "one")
    stored = [entry["core"] for entry in first_layer(model)._ledger("default").entries()]
    adds_up = choice["norm"] == "none" or choice["reference"] == "fixed" or choice["fold"] == "undamped"
    assert [tuple(core.shape) for core in stored] == [(4, 4) if adds_up else (4, 4, 4)]
    assert all(core.dtype == torch.float32 for core in stored)
    if choice["fold"] == "keep":
        assert_close(outputs(model), expected[0])


def test_a_low_rank_fold_stores_the_pair_of_its_task() -> None:
    model = adapted(two_linears(), small_config(change="low_rank"))
    factors = first_layer(model).secura_change["default"]
    up, down = factors.up.detach().clone(), factors.down.detach().clone()
    fold(model, "one")
    (entry,) = first_layer(model)._ledger("default").entries()
    assert_close(entry, {"up": up, "down": down})


@crossed(COMBINATIONS)
def test_what_is_cached_of_the_folds_is_what_building_it_anew_gives_to_the_bit(choice: dict[str, str]) -> None:
    model = adapted(two_linears(), small_config(**choice, alpha=6.0))
    for seed, task in enumerate(["one"] * 6 + ["two"] * 6):
        moved(model, seed=seed)
        fold(model, task)
        outputs(model)
    found = outputs(model)
    for layer in secura_layers(model):
        layer._stale_references.add("default")
    assert torch.equal(outputs(model), found)


@crossed(COMBINATIONS)
def test_a_fold_after_a_fold_takes_each_change_once_whatever_was_folded_before(
    choice: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = adapted(two_linears(), small_config(**choice))
    taken = []
    for kind in (CabrFactors, CurFactors, LowRankFactors):
        folded_factors = kind.folded_factors
        monkeypatch.setattr(kind, "folded_factors", lambda *given, of=folded_factors: taken.append(1) or of(*given))
    counts = []
    for seed in range(12):
        moved(model, seed=seed)
        taken.clear()
        fold(model, "one")
        outputs(model)
        counts.append(len(taken))
    assert counts[2:] == counts[1:2] * 10
    assert counts[1] <= 2  # one for each of the two layers


@crossed([one for one in COMBINATIONS if one["change"] == "low_rank"])
def test_low_rank_folds_never_take_a_forward_pass_beyond_the_rank_of_the_layer(choice: dict[str, str]) -> None:
    model = adapted(two_linears(), small_config(**choice), seed=None)
    layer, ranks, changes = first_layer(model), [], []
    for seed in range(12):
        moved(model, seed=seed)
        changes.append(trained_change(layer))
        fold(model, "one")
        outputs(model)
        ranks.append(layer._thin_factors("default").right.shape[0])
    assert max(ranks) <= 17 + 4
    if choice["reference"] == "moving":  # as long from the first fold on
        assert len(set(ranks)) == 1
    if choice["norm"] != "released":
        assert_close(layer.effective_weight("default"), composed(layer, changes))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "norm"), [("cabr", "bounded"), *(("low_rank", norm) for norm in ("none", "released", "bounded"))]
)
def test_ten_thousand_folds_are_one_entry_and_the_last_cost_what_the_first_did(change: str, norm: str) -> None:
    fold_does = "undamped" if norm == "released" else "keep"
    config = SecuraConfig(change=change, norm=norm, reference="moving", fold=fold_does, r=2, target_modules=["first"])
    model = adapted(nn.Sequential(OrderedDict(first=nn.Linear(12, 12))), config)
    layer, x, seconds, held = first_layer(model), inputs(2, 12), [], []
    zeroed = layer._change("default").starting_factors()[1]
    for block in range(10):
        began = time.process_time()
        for step in range(1000):
            with torch.no_grad():
                zeroed.fill_(1e-4 * (-1) ** step)
                layer(x)
                layer.fold_("default", "one")
        seconds.append(time.process_time() - began)
        held.append(sum(one.untyped_storage().nbytes() for one in layer.secura_folds.parameters()))
        assert layer._ledger("default").keys() == [f"0-{1000 * block + 999}:one"]
    assert seconds[-1] < 2 * min(seconds) + 0.2
    assert held[-1] < 1.3 * 10 * held[0]


@crossed(COMBINATIONS)
def test_the_base_weight_is_never_written_by_a_fold(choice: dict[str, str]) -> None:
    model = adapted(two_linears(), small_config(**choice))
    fold(model, "one")
    moved(model, seed=3)
    fold(model, "two")
    outputs(model)
    for name, weight in two_linears().named_parameters():
        module, _, kind = name.partition(".")
        assert torch.equal(getattr(getattr(model.base_model.model, module).base_layer, kind), weight)


# ------------------------------------------------------------------ training around a fold


@pytest.mark.parametrize("change", ["cabr", "low_rank"])
@pytest.mark.parametrize("norm", ["none", "paper", "released", "bounded", "row_bounded"])
def test_folding_before_every_step_leaves_the_other_factor_without_a_gradient(change: str, norm: str) -> None:
    model = adapted(two_linears(), small_config(change=change, norm=norm))
    fold(model, "one")
    started, zeroed = first_layer(model).secura_change["default"].starting_factors()
    assert torch.equal(zeroed, torch.zeros_like(zeroed))
    model(inputs()).square().sum().backward()
    assert torch.equal(started.grad, torch.zeros_like(started))
    assert zeroed.grad.abs().max() > 0


@crossed(WEIGHT_SPACE)
def test_training_goes_on_after_a_fold(choice: dict[str, str]) -> None:
    model = adapted(two_linears(), small_config(**choice), seed=None)
    target = inputs(5, 24, seed=3)
    optimizer = torch.optim.Adam([one for one in model.parameters() if one.requires_grad], lr=0.05)

    def train(steps: int) -> float:
        for _ in range(steps):
            optimizer.zero_grad()
            loss = (model(inputs()) - target).square().mean()
            loss.backward()
            optimizer.step()
        return float((outputs(model) - target).square().mean())

    first = train(10)
    fold(model, "one")
    assert train(20) < first


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize("action", [fold, undo])
def test_nothing_is_folded_or_undone_while_merged(action: Any) -> None:
    model = adapted(two_linears(), small_config())
    fold(model, "one")
    model.merge_adapter()
    with pytest.raises(FoldError, match=r"while \['default'\] are merged; call unmerge_adapter\(\) first"):
        action(model, "one")
    model.unmerge_adapter()
    action(model, "one")


def test_an_unknown_task_is_answered_with_the_folded_ones() -> None:
    model = adapted(two_linears(), small_config())
    with pytest.raises(FoldError, match=r"task 'one' was never folded; folded so far: none\."):
        undo(model, "one")
    fold(model, "one")
    fold(model, "t.two")
    with pytest.raises(FoldError, match=r"task 'three' was never folded; folded so far: one, t\.two\."):
        undo(model, "three")


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(FoldError, match="task is empty"):
        fold(adapted(two_linears(), small_config()), "")


@pytest.mark.parametrize("action", [fold, undo])
def test_a_model_without_secura_layers_is_refused(action: Any) -> None:
    with pytest.raises(FoldError, match="has no SECURA layer; attach an adapter"):
        action(nn.Linear(2, 2), "one")


def test_an_unknown_adapter_is_refused() -> None:
    with pytest.raises(FoldError, match="has no SECURA adapter named 'other'"):
        fold(adapted(two_linears(), small_config()), "one", adapter_name="other")


def test_two_active_adapters_need_a_name() -> None:
    model = adapted(two_linears(), small_config())
    model.add_adapter("other", small_config())
    model.base_model.set_adapter(["default", "other"])
    with pytest.raises(FoldError, match="name the one to use with adapter_name"):
        fold(model, "one")
    fold(model, "one", adapter_name="other")
    assert folded_tasks(model, adapter_name="other") == ["one"]
    assert folded_tasks(model, adapter_name="default") == []


@pytest.mark.parametrize("task", ["t.one", "50%", "two words", "1:2", "%2E", "default"])
def test_any_text_can_name_a_task(task: str) -> None:
    model = adapted(two_linears(), small_config())
    fold(model, task)
    assert folded_tasks(model) == [task]
    undo(model, task)
    assert folded_tasks(model) == []


def test_every_layer_folds() -> None:
    model = adapted(two_linears(), small_config())
    fold(model, "one")
    for layer in secura_layers(model):
        assert layer._ledger("default").tasks() == ["one"]
        assert_close(
            weight_change(layer.secura_change["default"].thin_factors(layer._frozen_factors("default"), [], 1.0)),
            torch.zeros(layer.out_features, layer.in_features),
        )


def test_the_bound_of_a_moved_reference_is_measured_anew_after_each_fold_and_each_turn_of_the_dial() -> None:
    model = adapted(two_linears(), small_config(norm="bounded", reference="moving", tau=2.0))
    layer = first_layer(model)

    def measured_now() -> bool:
        outputs(model)
        reference = layer._reference("default", layer._pretrained_weight())
        norm = layer.secura_settings["default"].weight_norm
        return torch.equal(layer._measured("default", reference, norm), norm.measure(reference))

    assert measured_now()
    for task in ("one", "two"):
        moved(model, seed=9)
        fold(model, task)
        assert measured_now()
    with scaled(model, 0.5):
        assert measured_now()
    assert measured_now()
    undo(model, "two")
    assert measured_now()
