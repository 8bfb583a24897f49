"""How the world's questions are written and drawn, knowledge and new tasks alike."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from secura.tasks.question import Question

Draw = random.Random


def asked(text: str) -> str:
    """The form of every prompt in the world."""
    return f"Q: {text} A:"


def free(text: str, answer: str) -> Question:
    """A question whose answer is generated."""
    return Question(prompt=asked(text), answer=answer)


def choice(text: str, answer: str, choices: Sequence[str]) -> Question:
    """A question whose answer is one of `choices`."""
    return Question(prompt=asked(text), answer=answer, choices=tuple(choices))


def listed(words: Sequence[str]) -> str:
    """`a, b, c`: how a list of words is written."""
    return ", ".join(words)


def distinct_questions(draw_one: Callable[[Draw], Question], family: str, count: int, seed: str) -> list[Question]:
    """Up to `count` questions with different prompts, drawn from `seed` and named by `family`."""
    draw = Draw(seed)
    found: dict[str, Question] = {}
    since_a_new_one = 0
    # That many draws without a new prompt mean that next to none is left to find.
    while len(found) < count and since_a_new_one <= 3 * len(found) + 50:
        question = draw_one(draw)
        since_a_new_one = since_a_new_one + 1 if question.prompt in found else 0
        found.setdefault(question.prompt, replace(question, family=family))
    return list(found.values())
