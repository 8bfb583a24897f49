"""What a question is: the one type that every task, scorer and report shares."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Match = Literal["exact", "normalised", "first_line", "number", "contains", "json"]
"""How a free answer is compared with the right one: the rules of `secura.evaluation.answer_match`."""


@dataclass(frozen=True, kw_only=True)
class Chat:
    """What a model reads before it answers, where functions that it may call belong to it."""

    turns: tuple[Mapping[str, Any], ...]
    """The messages before the answer."""
    tools: tuple[Mapping[str, Any], ...]
    """The functions, as JSON schemas."""


Asked = str | Sequence[Mapping[str, Any]] | Chat
"""What a model reads before it answers: a prompt, a chat, or a chat with tools."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question with its right answer.

    A question with `choices` is multiple choice and is scored by log-likelihood; one
    without is free answer and is scored by generation.
    """

    prompt: str
    """What the model reads, without the answer."""
    answer: str
    """The right answer; for multiple choice, one of `choices`."""
    choices: tuple[str, ...] = ()
    """The answers to choose from; empty for a free answer."""
    family: str = "questions"
    """The group it is reported under, such as a task or a field of knowledge."""
    by_length: bool = False
    """Which choice a model makes: that of highest log-likelihood, or of highest log-likelihood per character.

    A task's own rule where the question is a row of a task (`secura.tasks.task_items`); the
    sum for the bundled world's questions and for rows of the user's own.
    """
    match: Match = "exact"
    """How a free answer is compared with the right one."""
    accept: tuple[str, ...] = ()
    """Further right answers, each as good as `answer`; for free answers alone."""
    turns: tuple[Mapping[str, Any], ...] = ()
    """The chat before the answer, where it is more than one user turn; `prompt` then shows it as text.

    An assistant's turn of `weight` 0, as OpenAI writes it, is read and not learned.
    """
    tools: tuple[Mapping[str, Any], ...] = ()
    """The functions that the model may call, as JSON schemas; the chat template shows them."""
    answer_turn: Mapping[str, Any] | None = None
    """The answer as a message, where it is more than a text, such as a tool call; `answer` then shows it as text."""

    def __post_init__(self) -> None:
        if self.choices and self.answer not in self.choices:
            raise ValueError(f"answer {self.answer!r} is not among the choices {list(self.choices)}.")
        if len(set(self.choices)) != len(self.choices):
            raise ValueError(f"choices {list(self.choices)} contains a choice twice.")
        if self.choices and (self.match != "exact" or self.accept):
            raise ValueError(f"match {self.match!r} and accept {list(self.accept)} are for answers without choices.")

    @property
    def right_answers(self) -> tuple[str, ...]:
        """Every answer that is right, the one to learn first."""
        return (self.answer, *self.accept)

    @property
    def asked(self) -> Asked:
        """What `secura.tasks.prompting` turns into tokens: the chat, or the prompt alone."""
        return Chat(turns=self.turns, tools=self.tools) if self.tools else self.turns or self.prompt

    @property
    def answered(self) -> str | Mapping[str, Any]:
        """What is to be answered: a text, or a message of the chat."""
        return self.answer if self.answer_turn is None else self.answer_turn


@dataclass(frozen=True, kw_only=True)
class PlainText:
    """A text without a question: all of it is learned, and it is scored by its loss alone."""

    text: str
    """The text as it stands in the data."""
    family: str = "text"
    """The group it is reported under."""


Item = Question | PlainText
