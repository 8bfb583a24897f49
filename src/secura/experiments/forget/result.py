"""What a comparison of two models came to: each task's change, each flip, and what was kept.

Tasks are in the order of the clearest loss: first those that lost significantly, by how much
they lost at the very least (the end of the interval next to zero), then those without a
significant change, worst first, then those that gained.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from secura.evaluation.retention_gate import Verdict
from secura.evaluation.significance import PairedComparison
from secura.evaluation.tally import Tally
from secura.evaluation.task_score import ItemScore, TaskScore
from secura.tasks.question import Question
from secura.tasks.task import Metric, Task

Direction = Literal["lost", "gained"]
"""Lost is right to wrong, gained is wrong to right."""

AnswerKind = Literal["choice", "number", "word", "longer text"]
"""What the right answer is: one of several given, a number alone, one word, or more."""

ANSWER_KINDS: tuple[AnswerKind, ...] = ("choice", "number", "word", "longer text")

_NUMBER = re.compile(r"[-+]?[$€£]?\d[\d,. ]*%?")


def answer_kind(question: Question, metric: Metric = "exact_match") -> AnswerKind:
    """The kind of a question's right answer; a number too where only the number in it is compared."""
    answer = question.answer.strip()
    if question.choices:
        return "choice"
    if metric == "number_match" or _NUMBER.fullmatch(answer):
        return "number"
    return "word" if len(answer.split()) == 1 else "longer text"


@dataclass(frozen=True, kw_only=True)
class TokenView:
    """One answer as the models read it, token by token."""

    answer: str
    """The answer."""
    tokens: tuple[str, ...]
    """Its tokens as text."""
    base: tuple[float | None, ...]
    """Log-likelihood of each under the base model, in nats; None where it has none."""
    tuned: tuple[float | None, ...]
    """The same under the tuned model."""


@dataclass(frozen=True, kw_only=True)
class Flip:
    """A question that one of the two models answers right and the other wrong."""

    task: str
    """The task it belongs to."""
    index: int
    """Its place among the task's questions, from 0."""
    question: Question
    """What was asked."""
    before: ItemScore
    """The base model's answer."""
    after: ItemScore
    """The tuned model's answer."""
    kind: AnswerKind
    """The kind of its right answer."""
    views: tuple[TokenView, ...] = ()
    """The base's answer and the tuned model's, token by token; empty where that was not computed."""

    @property
    def direction(self) -> Direction:
        """Right to wrong, or wrong to right."""
        return "lost" if self.before.correct else "gained"


@dataclass(frozen=True, kw_only=True)
class TaskChange:
    """One task, scored by both models."""

    task: Task
    """What was asked."""
    before: TaskScore
    """The base model's score."""
    after: TaskScore
    """The tuned model's score."""
    paired: PairedComparison
    """The items compared one by one."""
    adjusted_p: float
    """p after Holm's correction over all tasks of the comparison."""
    significant: bool
    """Whether the change is significant after that correction."""
    cached: bool = False
    """Whether the base's score was found in the cache."""

    @property
    def name(self) -> str:
        """The task's name."""
        return self.task.name

    @property
    def lower_is_better(self) -> bool:
        """Whether a rise is a loss, as for nats per token."""
        return self.task.kind == "text"

    @property
    def right_or_wrong(self) -> bool:
        """Whether each answer is right or wrong, so that it can flip and be kept."""
        return all(each.correct is not None for each in self.before.items)

    @property
    def tally(self) -> Tally:
        """How many answers were right before and after, and how many were lost."""
        return Tally.of_answers(*([bool(each.correct) for each in side.items] for side in (self.before, self.after)))

    @property
    def loss(self) -> float:
        """How much worse the tuned model is, in the unit of an item's score; below 0 where it is better."""
        return self.paired.difference if self.lower_is_better else -self.paired.difference

    @property
    def sure_loss(self) -> float:
        """The least loss, or the least gain as a number below 0, that the interval allows; 0 if it holds 0."""
        low, high = sorted((self.paired.low, self.paired.high))
        if self.lower_is_better:
            low, high = -high, -low
        return max(-high, 0.0) or -max(low, 0.0)

    @property
    def lost(self) -> bool:
        """Whether it lost significantly."""
        return self.significant and self.loss > 0

    @property
    def gained(self) -> bool:
        """Whether it gained significantly."""
        return self.significant and self.loss < 0

    @property
    def flips(self) -> list[Flip]:
        """What flipped, in the order asked."""
        pairs = zip(self.before.items, self.after.items, strict=True)
        return [
            Flip(
                task=self.name,
                index=index,
                question=old.item,
                before=old,
                after=new,
                kind=answer_kind(old.item, self.task.metric),
            )
            for index, (old, new) in enumerate(pairs)
            if isinstance(old.item, Question) and old.correct is not None and old.correct is not new.correct
        ]


def by_clearest_loss(changes: Sequence[TaskChange]) -> list[TaskChange]:
    """Tasks in the order of the module's first paragraph; equal ones keep their order."""

    def rank(change: TaskChange) -> tuple[int, float, float]:
        group = 0 if change.lost else 2 if change.gained else 1
        return group, -change.sure_loss if change.significant else 0.0, -change.loss

    return sorted(changes, key=rank)


@dataclass(frozen=True, kw_only=True)
class ForgetResult:
    """Everything that `secura forget` found out."""

    base: str
    """The base model as the user named it."""
    tuned: str
    """The tuned model as the user named it."""
    changes: Sequence[TaskChange]
    """Each task's change, the clearest loss first."""
    flips: Sequence[Flip]
    """Every flip, task by task in the order of `changes`; a few with their tokens."""
    kept: Tally | None
    """Knowledge kept over all tasks of right and wrong; None where there are none."""
    verdict: Verdict | None
    """What the gate says; None where no limit was set."""
    confidence: float
    """Of the intervals and of significance."""
    notes: Sequence[str]
    """What the user should know, such as scores that could not be cached."""
    record: Mapping[str, Any]
    """Settings, versions, hardware, fingerprints and times: what a stored result carries."""

    @property
    def lost(self) -> list[TaskChange]:
        """Tasks that lost significantly."""
        return [change for change in self.changes if change.lost]

    @property
    def gained(self) -> list[TaskChange]:
        """Tasks that gained significantly."""
        return [change for change in self.changes if change.gained]
