"""What became of each task over a sequence of tasks: the score matrix, and the numbers drawn from it.

R[t, i] is the score on task i after learning t tasks; row 0 is before any. Tasks are counted
from 1 in the order learned, T of them; further columns hold tasks that are only watched.

Two literatures call different things forgetting, so here neither has the bare name:

    best minus last     max R[1..T−1, i] − R[T, i]    Chaudhry et al. 2018; Mammoth, which also
                                                      counts R[T, i] and so never goes below 0
    first minus last    R[i, i] − R[T, i]             Avalanche; backward transfer with its sign changed

Where a number needs a cell that is missing it is missing too, None, and so is its mean: a
mean over fewer tasks would be another number.

Sources: Lopez-Paz and Ranzato 2017, arXiv:1706.08840, for average accuracy, backward and
forward transfer; Chaudhry et al. 2018, arXiv:1801.10112, for forgetting; the code of Mammoth
(`utils/metrics.py`) and Avalanche (`evaluation/metrics/forgetting_bwt.py`).
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

Cell = float | None


@dataclass(frozen=True, kw_only=True)
class ScoreMatrix:
    """R[t, i]: the score on every task, before training and after each task learned."""

    tasks: tuple[str, ...]
    """The columns: tasks in the order learned, then those only watched."""
    scores: tuple[tuple[Cell, ...], ...]
    """`scores[t][i]` after learning the first t tasks; row 0 is before any. None is a score not taken."""

    def __post_init__(self) -> None:
        if len(set(self.tasks)) != len(self.tasks):
            raise ValueError(f"tasks {list(self.tasks)} contains a task twice.")
        if not 1 <= len(self.scores) <= len(self.tasks) + 1:
            raise ValueError(
                f"{len(self.scores)} rows of scores do not fit {len(self.tasks)} tasks; "
                f"one before training and at most one after each task make 1 to {len(self.tasks) + 1}."
            )
        for number, row in enumerate(self.scores):
            if len(row) != len(self.tasks):
                raise ValueError(f"row {number} has {len(row)} scores for {len(self.tasks)} tasks.")
            if any(cell is not None and not math.isfinite(cell) for cell in row):
                raise ValueError(f"row {number} is {list(row)}; a score that is missing is None.")

    @property
    def learned(self) -> tuple[str, ...]:
        """The tasks learned so far, T of them: one for each row but the first."""
        return self.tasks[: len(self.scores) - 1]

    @property
    def watched(self) -> tuple[str, ...]:
        """The tasks scored without having been learned."""
        return self.tasks[len(self.scores) - 1 :]

    def score(self, learned: int, task: str) -> Cell:
        """R[learned, task]; None where it was not taken."""
        return self.scores[learned][self.tasks.index(task)]


@dataclass(frozen=True, kw_only=True)
class PerTask:
    """One number for each task, and their mean."""

    by_task: Mapping[str, Cell]
    """The number of each task it is defined for; None where a score it needs is missing."""

    @property
    def mean(self) -> Cell:
        """The mean over the tasks, each counting once; None where any is missing or there is none."""
        numbers = [number for number in self.by_task.values() if number is not None]
        if not numbers or len(numbers) < len(self.by_task):
            return None
        return math.fsum(numbers) / len(numbers)


def average_accuracy(matrix: ScoreMatrix) -> PerTask:
    """R[T, i] of every task learned; its mean is ACC = 1/T Σ R[T, i], by Lopez-Paz and Ranzato."""
    return _each(matrix.learned, lambda task: matrix.score(-1, task))


def backward_transfer(matrix: ScoreMatrix) -> PerTask:
    """What learning later tasks added to an earlier one; below 0 where it was forgotten.

    R[T, i] − R[i, i] for i < T; the mean is BWT = 1/(T−1) Σ, by Lopez-Paz and Ranzato, and as
    Mammoth computes it. The last task learned has no later ones and is left out.
    """
    return _each(matrix.learned[:-1], lambda task: _minus(matrix.score(-1, task), _when_learned(matrix, task)))


def forward_transfer(matrix: ScoreMatrix, *, untrained: Mapping[str, float] | None = None) -> PerTask:
    """What learning earlier tasks added to one not yet learned.

    R[i−1, i] − b[i] for i ≥ 2; the mean is FWT = 1/(T−1) Σ.

    Args:
        matrix: the scores.
        untrained: b, the score of each task with randomly initialised weights, as Lopez-Paz
            and Ranzato have it, and Mammoth. By default b[i] = R[0, i], the score of the
            model that training set out from, as in Avalanche: a pretrained model is not random.

    Raises:
        ValueError: if `untrained` leaves out a task that needs it.
    """
    late = matrix.learned[1:]
    if untrained is not None and (missing := [task for task in late if task not in untrained]):
        raise ValueError(f"untrained holds no score for {missing}.")

    def gained(task: str) -> Cell:
        start = matrix.score(0, task) if untrained is None else untrained[task]
        return _minus(matrix.score(matrix.tasks.index(task), task), start)

    return _each(late, gained)


def forgetting_best_minus_last(matrix: ScoreMatrix) -> PerTask:
    """How far each task has fallen from its best, by Chaudhry et al.

    max over l = 1..T−1 of R[l, i], minus R[T, i], for i < T; the mean is F = 1/(T−1) Σ. Below
    0 where the last score is the best yet. Mammoth takes the maximum over l = 1..T, which
    turns those values into 0, and counts scores that were not taken as 0.

    Scores from before a task was learned count where they were taken; row 0, before any
    training, does not. Those from after it was learned must all be there.
    """

    def fallen(task: str) -> Cell:
        column = matrix.tasks.index(task)
        earlier = [row[column] for row in matrix.scores[1:-1]]
        since_learned = earlier[column:]
        if any(cell is None for cell in since_learned):
            return None
        return _minus(max(cell for cell in earlier if cell is not None), matrix.score(-1, task))

    return _each(matrix.learned[:-1], fallen)


def forgetting_first_minus_last(matrix: ScoreMatrix) -> PerTask:
    """How far each task has fallen since it was learned, as Avalanche computes forgetting.

    R[i, i] − R[T, i] for i < T: backward transfer with its sign changed, and never more than
    `forgetting_best_minus_last`, since the score when learned is one of those the best is of.
    """
    return _each(matrix.learned[:-1], lambda task: _minus(_when_learned(matrix, task), matrix.score(-1, task)))


def _each(tasks: Iterable[str], number: Callable[[str], Cell]) -> PerTask:
    return PerTask(by_task={task: number(task) for task in tasks})


def _when_learned(matrix: ScoreMatrix, task: str) -> Cell:
    """R[i, i]."""
    return matrix.score(matrix.tasks.index(task) + 1, task)


def _minus(left: Cell, right: Cell) -> Cell:
    return None if left is None or right is None else left - right
