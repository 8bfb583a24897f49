"""What a task is: where its rows come from, how one is asked, and what an answer is worth.

A row has one of three shapes, whatever its source: `{question, choices, answer}` with the
answer counted from 0, `{prompt, target}`, or `{text}`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from secura.tasks.question import Item

Row = Mapping[str, Any]

Metric = Literal[
    "accuracy",
    "accuracy_by_length",
    "exact_match",
    "match",
    "number_match",
    "rouge1",
    "rougeL",
    "bleu",
    "chrf",
    "perplexity",
]
Kind = Literal["choice", "generation", "text"]
Split = Literal["test", "train"]


@dataclass(frozen=True, kw_only=True)
class HubRows:
    """Where a task's rows lie on the Hugging Face Hub."""

    path: str
    """Name of the data set, such as `openai/gsm8k`."""
    config: str | None = None
    """Its configuration, where it has several."""
    test_split: str = "test"
    """The split that is scored."""
    train_split: str | None = "train"
    """The split that is learned from; None where there is none."""
    revision: str | None = None
    """The branch or commit to read; None is the newest."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task, complete: nothing about it is said elsewhere."""

    name: str
    """What it is called on the command line and in reports."""
    version: int
    """Stored with every score; raised whenever the same model would score differently."""
    tests: str
    """What it tests, in a few words."""
    source: str
    """The data set, and the paper that introduced it."""
    prompt_reason: str
    """Why the prompt is what it is."""
    metric: Metric
    """The headline number."""
    item: Callable[[Row], Item]
    """What a row asks."""
    hub: HubRows | None = None
    """Where its rows are on the hub; None for tasks that draw their items, or are the user's own."""
    row_from_hub: Callable[[Row], Row | None] | None = None
    """A row of the hub's in one of the three shapes; None for one to leave out."""
    bundled: Callable[[int, int], Sequence[Item]] | None = None
    """Questions that come with secura, by count and seed; None where rows are read."""
    bundled_train: Callable[[int, int], Sequence[Item]] | None = None
    """The same, to learn from; None for what a model knows already."""
    drawn: Mapping[Split, int] = field(default_factory=lambda: {"test": 200, "train": 2400})
    """How many of these are drawn where no count is given."""
    rows: Mapping[Split, str] | None = None
    """The user's own rows, by split: a file, or a hub data set as `org/name:config:split`."""
    stop: tuple[str, ...] = ("\n",)
    """Strings that end a generated answer; they are no part of it."""
    max_answer_tokens: int = 64
    """Tokens after which a generated answer is cut, and counted as truncated."""

    @property
    def kind(self) -> Kind:
        """How it is answered: by choosing, by generating, or not at all."""
        if self.metric in ("accuracy", "accuracy_by_length"):
            return "choice"
        return "text" if self.metric == "perplexity" else "generation"

    @property
    def by_length(self) -> bool:
        """Whether choices are compared by log-likelihood per character, and not by its sum."""
        return self.metric == "accuracy_by_length"
