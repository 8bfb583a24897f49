import pytest
from made_records import made_record

from secura.evaluation.tally import Tally
from secura.report.comparison.measure import KEPT
from secura.report.comparison.runs import (
    GridRuns,
    Missing,
    Variant,
    newest_of_each_cell,
    over_seeds,
    over_tasks,
    rate_text,
)


def _kept(share: int, **changes):
    return made_record(knowledge={"homes": Tally.of_totals(asked=100, before=100, after=share)}, **changes)


def test_a_label_at_several_rates_is_several_variants_and_one_with_a_rate_a_task_is_one() -> None:
    swept = [made_record("A", learning_rate=rate) for rate in (1e-3, 1e-2)]
    own = [made_record("B", task=task, learning_rate=rate) for task, rate in (("x", 1e-3), ("y", 1e-2))]
    grid = GridRuns(name="g", records=[*swept, *own])
    assert grid.variants == [
        Variant(label="A", rate=1e-3),
        Variant(label="A", rate=1e-2),
        Variant(label="B", rate=None),
    ]
    assert [variant.text for variant in grid.variants] == ["A at 1e-3", "A at 1e-2", "B"]
    assert [grid.rate_rank(variant) for variant in grid.variants] == [0, 1, 0]


def test_a_mean_over_tasks_takes_only_seeds_that_have_every_task() -> None:
    records = [
        *(_kept(90, seed=0, task=task) for task in "ab"),
        *(_kept(70, seed=1, task=task) for task in "ab"),
        _kept(10, seed=2, task="a"),
    ]
    found = over_tasks(records, ["a", "b"], KEPT)
    assert found is not None
    assert (found.mean, found.count) == pytest.approx((0.8, 2))
    assert over_tasks(records, ["a", "b", "c"], KEPT) is None


def test_failed_runs_have_no_number() -> None:
    assert over_seeds([_kept(90, status="failed")], KEPT) is None


def test_an_older_run_of_the_same_cell_gives_way_to_a_newer_one() -> None:
    old = made_record(name="old", created_at="2026-01-01T00:00:00Z")
    new = made_record(name="new", created_at="2026-01-02T00:00:00Z")
    other = made_record(name="other", seed=1)
    assert newest_of_each_cell([new, old, other]) == [new, other]


def test_runs_that_are_missing_count_among_those_planned() -> None:
    absent = Missing(label="LoRA", model="bundled", task="own_things", seed=1, learning_rate=1e-3)
    grid = GridRuns(name="g", records=[made_record()], missing=[absent])
    (variant,) = grid.variants
    assert grid.seeds == [0, 1]
    assert (len(grid.cell("bundled", variant, "own_things")), grid.repeats("bundled", variant, "own_things")) == (1, 2)


@pytest.mark.parametrize(("rate", "said"), [(3e-4, "3e-4"), (1e-2, "1e-2"), (0.1, "0.1"), (1.5e-3, "1.5e-3")])
def test_rates_are_written_as_people_write_them(rate: float, said: str) -> None:
    assert rate_text(rate) == said
