"""How the world's questions are written, knowledge and new tasks alike."""

from collections.abc import Sequence

from secura.tasks.question import Question


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
