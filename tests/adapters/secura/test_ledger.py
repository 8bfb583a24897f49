import copy
from collections.abc import Callable

import pytest
import torch
from torch.testing import assert_close

from secura.adapters.secura.ledger import FoldLedger, folds_by_key

AWKWARD_NAMES = ["t.one", "50%", "two words", "1:2", "%2E", "ünïcode/π", ".", "default", "secura_folds.default."]


def core(value: float) -> dict[str, torch.Tensor]:
    return {"core": torch.full((2, 2), value)}


def test_entries_come_back_in_the_order_of_the_folds() -> None:
    ledger = FoldLedger()
    for index in range(12):  # from ten on, text order and number order differ
        ledger.add(f"task {index}", core(index), summed=True)
    assert ledger.tasks() == [f"task {index}" for index in range(12)]
    assert [float(entry["core"][0, 0]) for entry in ledger.entries()] == list(range(12))


def test_summed_folds_of_one_task_in_a_row_are_one_matrix() -> None:
    ledger = FoldLedger()
    for value in (1.0, 2.0, 4.0):
        ledger.add("one", core(value), summed=True)
    assert len(ledger.entries()) == 1
    assert_close(ledger.entries()[0], core(7.0))


def test_a_task_that_comes_back_later_keeps_its_place_and_its_name() -> None:
    ledger = FoldLedger()
    for task, value in (("one", 1.0), ("two", 2.0), ("one", 4.0)):
        ledger.add(task, core(value), summed=True)
    assert ledger.tasks() == ["one", "two"]
    assert_close(ledger.entries(), [core(1.0), core(2.0), core(4.0)])
    ledger.remove("one")
    assert_close(ledger.entries(), [core(2.0)])


def test_folds_of_one_task_that_compose_stay_apart_in_one_entry() -> None:
    ledger = FoldLedger()
    for task, value in (("one", 1.0), ("one", 2.0), ("one", 4.0), ("two", 8.0), ("one", 16.0)):
        ledger.add(task, core(value), summed=False)
    assert ledger.keys() == ["0-2:one", "3:two", "4:one"]
    assert ledger.count() == 5
    assert_close(ledger.folds(), [core(value) for value in (1.0, 2.0, 4.0, 8.0, 16.0)])
    ledger.remove("one")
    assert_close(ledger.folds(), [core(8.0)])


@pytest.mark.parametrize("change", [copy.deepcopy, lambda ledger: ledger.double().float()])
def test_a_stack_grows_on_after_its_ledger_was_copied_or_moved(change: Callable[[FoldLedger], FoldLedger]) -> None:
    ledger = FoldLedger()
    for value in (1.0, 2.0, 4.0):
        ledger.add("one", core(value), summed=False)
    other = change(ledger)
    other.add("one", core(8.0), summed=False)
    other.add("one", core(16.0), summed=False)
    assert_close(other.folds(), [core(value) for value in (1.0, 2.0, 4.0, 8.0, 16.0)])
    if other is not ledger:
        assert_close(ledger.folds(), [core(value) for value in (1.0, 2.0, 4.0)])


def test_a_stack_takes_little_more_than_its_folds() -> None:
    ledger = FoldLedger()
    for _ in range(1000):
        ledger.add("one", core(1.0), summed=False)
    (entry,) = ledger.entries()
    assert entry["core"].untyped_storage().nbytes() < 1.3 * 1000 * core(1.0)["core"].nbytes


def test_a_fold_after_an_undo_of_the_last_one_comes_last_again() -> None:
    ledger = FoldLedger()
    for task in ("one", "two", "three"):
        ledger.add(task, core(0.0), summed=True)
    ledger.remove("two")
    ledger.add("four", core(0.0), summed=True)
    assert ledger.tasks() == ["one", "three", "four"]


@pytest.mark.parametrize("name", AWKWARD_NAMES)
def test_any_text_can_name_a_task(name: str) -> None:
    ledger = FoldLedger()
    ledger.add(name, core(1.0), summed=True)
    assert ledger.tasks() == [name]
    again = FoldLedger()
    again.replace(folds_by_key(ledger.state_dict().items()))
    assert again.tasks() == [name]
    assert_close(again.entries(), ledger.entries())
    ledger.remove(name)
    assert ledger.tasks() == []


def test_names_that_look_alike_when_escaped_stay_apart() -> None:
    ledger = FoldLedger()
    for name in (".", "%2E", "%252E"):
        ledger.add(name, core(0.0), summed=True)
    assert ledger.tasks() == [".", "%2E", "%252E"]


def test_folds_are_frozen() -> None:
    ledger = FoldLedger()
    ledger.add("one", core(1.0), summed=True)
    assert not any(parameter.requires_grad for parameter in ledger.parameters())
