"""What a layer costs a step beside LoRA's, counted and not timed: a change that makes it dearer fails here."""

from pathlib import Path
from typing import Any

import pytest
import torch
from layer_cost import LayerCost, layer_cost
from peft import LoraConfig, PeftConfig, get_peft_model
from torch import nn

from secura import SecuraConfig
from secura.numerics import constrained_linear
from secura.numerics.s_magnorm import Bounded, Paper

PERFORMANCE = Path(__file__).parents[3] / "docs" / "performance.md"
FORMS = [
    "lora",
    "cabr none",
    "low_rank none",
    "cabr row_bounded",
    "low_rank row_bounded",
    "cabr bounded",
    "low_rank bounded",
    "cabr paper",
]
TYPES = {
    "float32": (torch.float32, None),
    "bfloat16": (torch.bfloat16, None),
    "float32 under bfloat16": (torch.float32, torch.bfloat16),
}
"""Of the base weight, and of autocast."""


def config_of(form: str, r: int) -> PeftConfig:
    if form == "lora":
        return LoraConfig(r=r, target_modules=["first"])
    change, norm = form.split()
    settings: dict[str, Any] = {"change": change, "norm": norm, "r": r, "inner_r": 4 * r}
    return SecuraConfig(target_modules=["first"], **settings)


def cost(form: str, types: str, *, tokens: int = 112, out: int = 96, width: int = 80, r: int = 4) -> LayerCost:
    dtype, autocast = TYPES[types]
    base = nn.ModuleDict({"first": nn.Linear(width, out, bias=False, dtype=dtype)})
    model = get_peft_model(base, config_of(form, r))  # type: ignore[arg-type]
    return layer_cost(model, tokens=tokens, ranks={r, 4 * r}, dtype=dtype, autocast=autocast)


@pytest.mark.parametrize("types", TYPES)
@pytest.mark.parametrize("form", ["cabr none", "cabr row_bounded", "low_rank row_bounded"])
def test_without_a_norm_on_each_weight_a_layer_costs_what_lora_does(form: str, types: str) -> None:
    lora, ours = cost("lora", types), cost(form, types)
    assert (ours.forward, ours.backward) == (lora.forward, lora.backward) == (1, 1)
    assert (ours.passes, ours.made) == (lora.passes, lora.made)


@pytest.mark.parametrize("types", TYPES)
@pytest.mark.parametrize("form", ["cabr none", "cabr row_bounded"])
def test_a_cur_layer_without_a_norm_on_each_weight_keeps_less_than_lora(form: str, types: str) -> None:
    assert cost(form, types).saved < 0.7 * cost("lora", types).saved


@pytest.mark.parametrize(
    ("types", "passes", "made"), [("float32", 14, 5), ("bfloat16", 19, 10), ("float32 under bfloat16", 17, 8)]
)
@pytest.mark.parametrize("change", ["cabr", "low_rank"])
def test_a_bound_on_each_weight_takes_one_more_product_than_lora(
    change: str, types: str, passes: int, made: int
) -> None:
    found = cost(f"{change} bounded", types)
    assert (found.forward, found.backward) == (1, 2)
    assert found.passes == passes + (change == "low_rank")
    assert found.made == made
    assert found.saved <= 1.1 * cost("lora", types).saved


def test_a_large_weight_is_bounded_some_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = cost("cabr bounded", "float32")
    monkeypatch.setitem(constrained_linear._WEIGHTS_AT_ONCE, "cpu", 80 * 6)
    some = cost("cabr bounded", "float32")
    assert (some.forward, some.backward) == (whole.forward, whole.backward)
    assert whole.alive == 2
    assert some.alive <= 1 + 4 * 6 / 96  # W', and a few rows


@pytest.mark.parametrize("types", TYPES)
@pytest.mark.parametrize("form", ["cabr bounded", "cabr paper"])
@pytest.mark.parametrize("at_once", [2**18, 80 * 6])
def test_what_a_plan_takes_a_norm_to_hold_is_no_less_than_it_holds(
    at_once: int, form: str, types: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(constrained_linear._WEIGHTS_AT_ONCE, "cpu", at_once)
    dtype, autocast = TYPES[types]
    norm = Bounded(tau=0.15, floor=0.05) if "bounded" in form else Paper()
    planned = constrained_linear.temporary_bytes(
        torch.Size((96, 80)), norm, held_in=dtype, computed_in=autocast or dtype, device="cpu"
    )
    held = cost(form, types).alive_bytes
    assert held <= planned <= 1.2 * held


# ------------------------------------------------------------------ the table in docs/performance.md


def table() -> list[str]:
    """Of a layer in the proportions of one of 1,024 x 1,024 at 2,048 tokens a step and r = 16, an eighth in each."""
    size = {"tokens": 256, "out": 128, "width": 128, "r": 2}
    lora = {types: cost("lora", types, **size).saved for types in TYPES}
    rows = []
    for form in FORMS:
        cells = []
        for types in TYPES:
            found = cost(form, types, **size)
            cells.append(
                f"{found.forward:g} + {found.backward:g}, {found.passes:g}, {found.alive:g}, "
                f"{found.saved / lora[types]:.2f}"
            )
        rows.append(f"| `{form}` | " + " | ".join(cells) + " |")
    return rows


def test_the_table_in_the_documentation_is_what_is_counted() -> None:
    written = PERFORMANCE.read_text(encoding="utf-8")
    assert [row for row in table() if row not in written] == []
