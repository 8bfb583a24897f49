"""Questions that are drawn and not read: different ones by a seed, and those to learn apart from those to ask."""

import random
import zlib
from collections.abc import Callable
from dataclasses import replace

from secura.tasks.question import Question

Draw = random.Random

_ONE_IN_FOUR_IS_FOR_TESTING = 4


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


def questions_to_learn(draw_one: Callable[[Draw], Question], family: str, count: int, seed: int) -> list[Question]:
    """`count` questions to learn from; once there are no more different ones they repeat."""
    questions = distinct_questions(_only(draw_one, testing=False), family, count, f"train/{seed}")
    return [questions[index % len(questions)] for index in range(count)]


def questions_to_ask(draw_one: Callable[[Draw], Question], family: str, count: int, seed: int) -> list[Question]:
    """Up to `count` different questions, none of which is ever one to learn from.

    Whether a question is for learning or for asking is decided by a checksum of its prompt, so
    the two never overlap, whatever the counts and seeds.
    """
    return distinct_questions(_only(draw_one, testing=True), family, count, f"test/{seed}")


def _only(draw_one: Callable[[Draw], Question], *, testing: bool) -> Callable[[Draw], Question]:
    def draw_until_it_fits(draw: Draw) -> Question:
        while True:
            question = draw_one(draw)
            if (zlib.crc32(question.prompt.encode()) % _ONE_IN_FOUR_IS_FOR_TESTING == 0) is testing:
                return question

    return draw_until_it_fits
