"""Tasks the bundled model has not learned: the ones to fine-tune it on.

They come in the families that the SECURA paper fine-tunes on: multiple-choice logic, word
problems, question answering, translation and short summaries. Each recombines known words
and known facts into a mapping that pretraining never showed, so that learning one means
routing old parts anew, and costs old knowledge when it is done carelessly.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from secura.tasks.drawing import Draw, questions_to_ask, questions_to_learn
from secura.tasks.question import Question
from secura.tasks.world.asking import choice, free, listed
from secura.tasks.world.facts import (
    COLOURS,
    COUNTS,
    NOUNS,
    OPPOSITE,
    PEOPLE,
    PLACES,
    PLURALS,
    QUALITIES,
    VERBS,
    the_world,
)


@dataclass(frozen=True, kw_only=True)
class NewTask:
    """One task to learn, with its own training and test questions."""

    name: str
    """What it is called in `NEW_TASKS` and in reports."""
    kind: Literal["logic", "word problem", "question answering", "translation", "summary"]
    """Which of the paper's families of tasks it belongs to."""
    draw_one: Callable[[Draw], Question]
    """Draws one question, be it for training or for testing."""

    def train_questions(self, count: int, seed: int = 0) -> list[Question]:
        """`count` questions to learn from; once the task has no more different ones they repeat."""
        return questions_to_learn(self.draw_one, self.name, count, seed)

    def test_questions(self, count: int, seed: int = 0) -> list[Question]:
        """Up to `count` different questions, none of which is ever a training question."""
        return questions_to_ask(self.draw_one, self.name, count, seed)


def _younger(draw: Draw) -> Question:
    pair = draw.sample(PEOPLE, 2)
    younger = min(pair, key=the_world().age.__getitem__)
    return choice(f"Who is younger, {pair[0]} or {pair[1]}?", younger, pair)


def _youngest(draw: Draw) -> Question:
    people = draw.sample(PEOPLE, 3)
    youngest = min(people, key=the_world().age.__getitem__)
    return choice(f"Who is the youngest: {listed(people)}?", youngest, people)


def _chain_of_three(draw: Draw) -> Question:
    chain = draw.sample(QUALITIES, 4)
    rules = list(pairwise(chain))
    draw.shuffle(rules)
    written = " ".join(f"If {cause} then {effect}." for cause, effect in rules)
    choices = chain[1:]
    draw.shuffle(choices)
    return choice(f"{written} It is {chain[0]}. What is it in the end?", chain[-1], choices)


def _different_homes(draw: Draw) -> Question:
    home = the_world().home
    first = draw.choice(PEOPLE)
    want_different = draw.random() < 0.5
    second = draw.choice(
        [other for other in PEOPLE if other != first and (home[other] != home[first]) is want_different]
    )
    return choice(
        f"Do {first} and {second} live in different places, yes or no?",
        "yes" if want_different else "no",
        ["yes", "no"],
    )


def _two_steps(draw: Draw) -> Question:
    person, things = draw.choice(PEOPLE), draw.choice(PLURALS)
    first, second = draw.randint(1, 8), draw.randint(1, 8)
    third = draw.randint(1, min(first + second - 1, 8))
    return free(
        f"{person} has {first} {things}, gets {second} more and loses {third}. How many {things} are there?",
        str(first + second - third),
    )


def _own_things(draw: Draw) -> Question:
    person, other = draw.sample(PEOPLE, 2)
    things = draw.sample(PLURALS, 3)
    first, second, third = (draw.randint(1, 9) for _ in range(3))
    return free(
        f"{person} has {first} {things[0]} and {second} {things[1]}. {other} has {third} {things[2]}. "
        f"How many things does {person} have?",
        str(first + second),
    )


def _age_in_years(draw: Draw) -> Question:
    person, years = draw.choice(PEOPLE), draw.randint(1, 9)
    return free(f"How old is {person} in {years} years?", str(the_world().age[person] + years))


def _holder_between(draw: Draw) -> Question:
    people = draw.sample(PEOPLE, 3)
    noun = draw.choice(NOUNS)
    return free(
        f"{people[0]} gives the {noun} to {people[1]}. {people[1]} gives the {noun} to {people[2]}. "
        f"Who had the {noun} between?",
        people[1],
    )


def _taken_home(draw: Draw) -> Question:
    people, nouns = draw.sample(PEOPLE, 2), draw.sample(NOUNS, 2)
    asked_for = draw.randrange(2)
    story = " ".join(f"{person} takes the {noun} home." for person, noun in zip(people, nouns, strict=True))
    return free(f"{story} Where is the {nouns[asked_for]}?", the_world().home[people[asked_for]])


def _two_places_north(draw: Draw) -> Question:
    index, person = draw.randrange(len(PLACES) - 2), draw.choice(PEOPLE)
    return free(
        f"{person} starts in {PLACES[index]} and walks two places north. Where is {person}?",
        PLACES[index + 2],
    )


def _third_word(draw: Draw) -> Question:
    words = draw.sample(NOUNS + QUALITIES, draw.randint(4, 5))
    return free(f"The list is {listed(words)}. What is the third word?", words[2])


def _who_likes(draw: Draw) -> Question:
    colour = the_world().colour
    found = draw.choice(PEOPLE)
    people = [found, *draw.sample([other for other in PEOPLE if colour[other] != colour[found]], 3)]
    draw.shuffle(people)
    return free(f"Which of {listed(people)} likes {colour[found]}?", found)


def _long_phrase(draw: Draw) -> Question:
    ulvish = the_world().ulvish
    count, colour, noun = draw.choice(COUNTS), draw.choice(COLOURS), draw.choice(NOUNS)
    return free(f"Say {count} {colour} {noun} in Ulvish.", f"{ulvish[noun]} {ulvish[colour]} {ulvish[count]}")


def _ask_in_ulvish(draw: Draw) -> Question:
    ulvish = the_world().ulvish
    subject, thing = draw.sample(NOUNS, 2)
    verb = draw.choice(VERBS)
    return free(
        f"Ask in Ulvish: the {subject} {verb} the {thing}?",
        f"{ulvish[verb]} {ulvish[subject]} {ulvish[thing]}",
    )


def _phrase_in_english(draw: Draw) -> Question:
    ulvish = the_world().ulvish
    first, noun = draw.choice(COLOURS + COUNTS), draw.choice(NOUNS)
    return free(f"Say {ulvish[noun]} {ulvish[first]} in English.", f"{first} {noun}")


def _turn_around(draw: Draw) -> Question:
    words = draw.sample(NOUNS + QUALITIES, draw.randint(3, 4))
    return free(f"Turn the list around: {listed(words)}.", " ".join(reversed(words)))


def _initials(draw: Draw) -> Question:
    words = draw.sample(NOUNS + COLOURS + QUALITIES, 3)
    return free(f"What are the first letters of {listed(words)}?", " ".join(word[0] for word in words))


def _opposite_thing(draw: Draw) -> Question:
    quality, noun = draw.choice(QUALITIES), draw.choice(NOUNS)
    return free(f"What is the opposite of the {quality} {noun}?", f"the {OPPOSITE[quality]} {noun}")


def _pair_in_short(draw: Draw) -> Question:
    first, second = draw.sample(PEOPLE, 2)
    place, colour = draw.choice(PLACES), draw.choice(COLOURS)
    return free(
        f"In short: {first} and {second} live in {place}. {first} likes {colour}. {second} likes {colour}.",
        f"{place}: {first} and {second} like {colour}",
    )


def _gift_in_short(draw: Draw) -> Question:
    giver, taker = draw.sample(PEOPLE, 2)
    colour, noun, place = draw.choice(COLOURS), draw.choice(NOUNS), draw.choice(PLACES)
    return free(f"In short: {giver} gives the {colour} {noun} to {taker} in {place}.", f"{taker} has the {noun}")


NEW_TASKS: dict[str, NewTask] = {
    task.name: task
    for task in (
        NewTask(name="different_homes", kind="logic", draw_one=_different_homes),
        NewTask(name="two_steps", kind="word problem", draw_one=_two_steps),
        NewTask(name="two_places_north", kind="question answering", draw_one=_two_places_north),
        NewTask(name="ask_in_ulvish", kind="translation", draw_one=_ask_in_ulvish),
        NewTask(name="pair_in_short", kind="summary", draw_one=_pair_in_short),
        NewTask(name="younger", kind="logic", draw_one=_younger),
        NewTask(name="own_things", kind="word problem", draw_one=_own_things),
        NewTask(name="taken_home", kind="question answering", draw_one=_taken_home),
        NewTask(name="long_phrase", kind="translation", draw_one=_long_phrase),
        NewTask(name="gift_in_short", kind="summary", draw_one=_gift_in_short),
        NewTask(name="youngest", kind="logic", draw_one=_youngest),
        NewTask(name="age_in_years", kind="word problem", draw_one=_age_in_years),
        NewTask(name="holder_between", kind="question answering", draw_one=_holder_between),
        NewTask(name="phrase_in_english", kind="translation", draw_one=_phrase_in_english),
        NewTask(name="chain_of_three", kind="logic", draw_one=_chain_of_three),
        NewTask(name="who_likes", kind="question answering", draw_one=_who_likes),
        NewTask(name="third_word", kind="question answering", draw_one=_third_word),
        NewTask(name="turn_around", kind="question answering", draw_one=_turn_around),
        NewTask(name="initials", kind="question answering", draw_one=_initials),
        NewTask(name="opposite_thing", kind="question answering", draw_one=_opposite_thing),
    )
}

DEFAULT_TASK = "ask_in_ulvish"
"""The task of the first demonstration: learned well by every method, at a visible price."""

SEQUENCE = tuple(
    name for name in NEW_TASKS if name not in ("taken_home", "age_in_years", "chain_of_three", "opposite_thing")
)
"""Sixteen tasks to learn one after the other: all but the four that LoRA learns least of, by docs/log.md."""
