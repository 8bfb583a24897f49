import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secura.evaluation.retention_metrics import (
    ScoreMatrix,
    average_accuracy,
    backward_transfer,
    forgetting_best_minus_last,
    forgetting_first_minus_last,
    forward_transfer,
)

# Three tasks learned in turn, and one only watched. `a` does best after `b` was learned.
WORKED = ScoreMatrix(
    tasks=("a", "b", "c", "watched"),
    scores=(
        (0.10, 0.20, 0.30, 0.80),
        (0.70, 0.25, 0.35, 0.76),
        (0.75, 0.90, 0.40, 0.70),
        (0.50, 0.85, 0.95, 0.60),
    ),
)


def _without(*missing: tuple[int, str]) -> ScoreMatrix:
    rows = [list(row) for row in WORKED.scores]
    for learned, task in missing:
        rows[learned][WORKED.tasks.index(task)] = None
    return ScoreMatrix(tasks=WORKED.tasks, scores=tuple(map(tuple, rows)))


def test_every_metric_by_hand() -> None:
    assert WORKED.learned == ("a", "b", "c")
    assert WORKED.watched == ("watched",)
    assert average_accuracy(WORKED).mean == pytest.approx((0.50 + 0.85 + 0.95) / 3)
    assert backward_transfer(WORKED).by_task == pytest.approx({"a": 0.50 - 0.70, "b": 0.85 - 0.90})
    assert backward_transfer(WORKED).mean == pytest.approx(-0.125)
    assert forward_transfer(WORKED).by_task == pytest.approx({"b": 0.25 - 0.20, "c": 0.40 - 0.30})
    assert forward_transfer(WORKED, untrained={"b": 0.0, "c": 0.5}).mean == pytest.approx((0.25 - 0.10) / 2)
    assert forgetting_best_minus_last(WORKED).by_task == pytest.approx({"a": 0.75 - 0.50, "b": 0.90 - 0.85})
    assert forgetting_first_minus_last(WORKED).by_task == pytest.approx({"a": 0.70 - 0.50, "b": 0.90 - 0.85})


def test_best_minus_last_is_negative_where_the_last_score_is_the_best() -> None:
    matrix = ScoreMatrix(tasks=("a", "b"), scores=((0.9, 0.0), (0.5, 0.0), (0.7, 0.6)))
    # Mammoth, which counts the last score among those to be the best of, says 0; row 0 counts for neither.
    assert forgetting_best_minus_last(matrix).mean == pytest.approx(-0.2)


def test_a_missing_score_makes_only_what_needs_it_missing() -> None:
    unlearned = _without(
        (1, "b"), (2, "c"), (1, "c"), (0, "watched")
    )  # cells above the diagonal, as Mammoth leaves them
    assert forward_transfer(unlearned).by_task == {"b": None, "c": None}
    assert forward_transfer(unlearned).mean is None
    assert forgetting_best_minus_last(unlearned) == forgetting_best_minus_last(WORKED)
    assert backward_transfer(unlearned) == backward_transfer(WORKED)

    gap = _without((2, "a"))  # the best of `a` was there
    assert forgetting_best_minus_last(gap).by_task["a"] is None
    assert forgetting_best_minus_last(gap).mean is None
    assert forgetting_first_minus_last(gap) == forgetting_first_minus_last(WORKED)


def test_a_sequence_that_has_just_begun_has_nothing_to_forget() -> None:
    begun = ScoreMatrix(tasks=("a", "b"), scores=((0.1, 0.4), (0.9, 0.3)))
    assert average_accuracy(begun).by_task == {"a": 0.9}
    assert backward_transfer(begun).mean is None
    assert forgetting_best_minus_last(begun).by_task == {}
    assert begun.watched == ("b",)
    untouched = ScoreMatrix(tasks=("a",), scores=((0.5,),))
    assert average_accuracy(untouched).mean is None


def test_a_matrix_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="contains a task twice"):
        ScoreMatrix(tasks=("a", "a"), scores=((0.1, 0.1),))
    with pytest.raises(ValueError, match="1 to 2"):
        ScoreMatrix(tasks=("a",), scores=((0.1,), (0.2,), (0.3,)))
    with pytest.raises(ValueError, match="1 to 2"):
        ScoreMatrix(tasks=("a",), scores=())
    with pytest.raises(ValueError, match="row 1 has 2 scores"):
        ScoreMatrix(tasks=("a",), scores=((0.1,), (0.2, 0.3)))
    with pytest.raises(ValueError, match="missing is None"):
        ScoreMatrix(tasks=("a",), scores=((math.nan,),))
    with pytest.raises(ValueError, match=r"\['c'\]"):
        forward_transfer(WORKED, untrained={"b": 0.1})


@st.composite
def matrices(draw: st.DrawFn) -> ScoreMatrix:
    tasks = draw(st.integers(1, 5))
    rows = draw(st.integers(1, tasks + 1))
    cell = st.integers(0, 100).map(lambda points: points / 100)
    scores = tuple(tuple(draw(cell) for _ in range(tasks)) for _ in range(rows))
    return ScoreMatrix(tasks=tuple(f"task {number}" for number in range(tasks)), scores=scores)


@given(matrices())
def test_the_two_forgettings_and_backward_transfer_are_kin(matrix: ScoreMatrix) -> None:
    first, best = forgetting_first_minus_last(matrix), forgetting_best_minus_last(matrix)
    back = backward_transfer(matrix)
    assert first.by_task.keys() == best.by_task.keys() == back.by_task.keys()
    for task in first.by_task:
        assert first.by_task[task] == -back.by_task[task]
        assert first.by_task[task] <= best.by_task[task]
