"""From a row in one of the three shapes to what is asked; and from a hub's columns to such a row."""

import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

from secura.tasks.question import PlainText, Question
from secura.tasks.task import Row


def choice_question(row: Row, prompt: str) -> Question:
    """A question whose choices are scored by the likelihood of their own text."""
    choices = tuple(row["choices"])
    return Question(prompt=prompt, choices=choices, answer=choices[row["answer"]])


def letter_question(row: Row, prompt: str) -> Question:
    """A question whose choices stand in the prompt and are answered by letter."""
    letters = tuple(string.ascii_uppercase[: len(row["choices"])])
    return Question(prompt=prompt, choices=letters, answer=letters[row["answer"]])


def free_question(row: Row, prompt: str) -> Question:
    """A question whose answer is generated."""
    return Question(prompt=prompt, answer=row["target"])


def plain_text(row: Row) -> PlainText:
    """A text that is scored by its loss."""
    return PlainText(text=row["text"])


def lettered(choices: Sequence[str]) -> str:
    """`A. first`, `B. second`, one a line: how choices stand in a prompt."""
    return "\n".join(f"{letter}. {choice}" for letter, choice in zip(string.ascii_uppercase, choices, strict=False))


def one_line(text: str) -> str:
    """A text with its line breaks, and the white space about them, made one space each."""
    return re.sub(r"\s*\n\s*", " ", text.strip())


def choice_row(question: str, choices: Sequence[str], answer: int) -> Row | None:
    """A multiple-choice row; None where no answer is given, or choices are missing or alike."""
    texts = [choice.strip() for choice in choices]
    if len(texts) < 2 or len(set(texts)) < len(texts) or not all(texts) or not 0 <= answer < len(texts):
        return None
    return {"question": question.strip(), "choices": texts, "answer": answer}


def labelled_row(question: str, choices: Mapping[str, Any], answer: str) -> Row | None:
    """The same, from choices as `{"text": [...], "label": [...]}` and the right one's label."""
    labels = list(choices["label"])
    answer = answer.strip()
    return choice_row(question, choices["text"], labels.index(answer) if answer in labels else -1)


def answer_row(prompt: str, target: str) -> Row | None:
    """A row with a free answer; None where either is empty."""
    prompt, target = prompt.strip(), target.strip()
    return {"prompt": prompt, "target": target} if prompt and target else None
