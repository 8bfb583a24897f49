"""How everyday questions are written, and how some of a family are drawn."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from secura.tasks.question import Match, Question


@dataclass(frozen=True, kw_only=True)
class Family:
    """Questions of one kind; they are a task of the catalogue, called `everyday_` and the family's name."""

    name: str
    """What it is called."""
    tests: str
    """What it tests, in a few words."""
    questions: Callable[[], list[Question]]
    """Every question there is, in a fixed order; all with choices, or all with free answers."""
    by_length: bool = False
    """Whether choices are compared by log-likelihood per character: for whole sentences."""

    def draw(self, count: int, seed: int) -> list[Question]:
        """Up to `count` questions, drawn by the seed; a larger count holds the smaller one."""
        # Reported under the short name: tables have little room.
        every = [replace(question, family=self.name) for question in self.questions()]
        return random.Random(f"{self.name}/{seed}").sample(every, len(every))[:count]


def choose(prompt: str, answer: str, wrong: Sequence[str]) -> Question:
    """A question with choices, the right one at a place that follows from the prompt."""
    choices = [answer, *wrong]
    random.Random(prompt).shuffle(choices)
    return Question(prompt=prompt, answer=answer, choices=tuple(choices))


def say(prompt: str, answer: str, *accept: str, match: Match = "contains") -> Question:
    """A question with a free answer: it may stand in a sentence, unless another rule is named."""
    return Question(prompt=prompt, answer=answer, accept=accept, match=match)


def others(asked: str, right: str, everything: Sequence[str], count: int) -> list[str]:
    """`count` members of a table besides the right one, which follow from what is asked."""
    rest = [each for each in dict.fromkeys(everything) if each != right]
    return random.Random(asked).sample(rest, count)


def with_article(noun: str) -> str:
    """`a cup`, `an owl`."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
