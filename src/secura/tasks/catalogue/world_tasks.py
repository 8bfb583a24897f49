"""The bundled world's tasks: what the bundled model knows, and what it can be taught."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from secura.tasks.catalogue.row_shapes import choice_question, free_question
from secura.tasks.drawing import Draw, distinct_questions
from secura.tasks.question import Item, Question
from secura.tasks.task import Row, Task
from secura.tasks.world import KNOWLEDGE, NEW_TASKS, NewTask

_KNOWN = {
    "homes": "where a person lives",
    "ages": "how old a person is",
    "trades": "what a person works as",
    "colours": "which colour a person likes",
    "kinds": "which kind of thing a noun names, five choices",
    "road": "which place lies just north or south of another",
    "opposites": "the opposite of a word",
    "sums": "adding and subtracting up to 24",
    "words": "words of an invented language, both ways",
    "phrases": "two-word phrases of an invented language",
    "letters": "the first or last letter of a word",
    "older": "who of two people is older",
    "true_homes": "whether a person lives in a place, yes or no",
}
_NEW = {
    "different_homes": "whether two people live in different places, yes or no",
    "two_steps": "a word problem of two steps",
    "two_places_north": "which place lies two places north of another",
    "ask_in_ulvish": "questions of three words in an invented language",
    "pair_in_short": "summing up what two people have in common",
    "younger": "who of two people is younger",
    "own_things": "a word problem with a number that does not count",
    "taken_home": "where a thing is after someone took it home",
    "long_phrase": "three-word phrases of an invented language",
    "gift_in_short": "summing up who has a thing after a gift",
    "youngest": "who of three people is youngest",
    "age_in_years": "how old a person is in some years",
    "holder_between": "who held a thing between two others",
    "phrase_in_english": "what a phrase of an invented language means",
    "chain_of_three": "a chain of three if-then rules",
    "who_likes": "who of four people likes a colour",
    "third_word": "the third word of a list",
    "turn_around": "a list turned around",
    "initials": "the first letters of three words",
    "opposite_thing": "a thing with the opposite quality",
}


def _item(row: Row) -> Question:
    return choice_question(row, row["question"]) if "choices" in row else free_question(row, row["prompt"])


def _known_questions(family: str, count: int, seed: int) -> list[Question]:
    """The same questions that `knowledge_questions` draws of this family."""
    return distinct_questions(KNOWLEDGE[family], family, count, f"{family}/{seed}")


def _task(
    name: str,
    tests: str,
    draw_one: Callable[[Draw], Question],
    *,
    bundled: Callable[[int, int], Sequence[Item]],
    bundled_train: Callable[[int, int], Sequence[Item]] | None = None,
) -> Task:
    return Task(
        name=name,
        version=1,
        tests=tests,
        source="the bundled world, drawn by seed (secura.tasks.world)",
        prompt_reason="`Q: ... A:` is the form in which the bundled model was pretrained.",
        metric="accuracy" if draw_one(Draw(0)).choices else "exact_match",
        item=_item,
        bundled=bundled,
        bundled_train=bundled_train,
        max_answer_tokens=32,
    )


def _new(task: NewTask) -> Task:
    return _task(
        task.name,
        _NEW[task.name],
        task.draw_one,
        bundled=task.test_questions,
        bundled_train=task.train_questions,
    )


KNOWLEDGE_TASKS: Mapping[str, Task] = {
    family: _task(family, _KNOWN[family], draw_one, bundled=partial(_known_questions, family))
    for family, draw_one in KNOWLEDGE.items()
}
"""What the bundled model knows before it is taught anything: scored, never trained on."""

NEW_TASK_TASKS: Mapping[str, Task] = {name: _new(task) for name, task in NEW_TASKS.items()}
"""What it can be taught."""
