"""Numbers: adding, taking away and multiplying, units, and how many there are of a thing."""

import random

from secura.tasks.everyday.asking import choose, others, say
from secura.tasks.question import Question

_PLUS = ((2, 3), (7, 5), (9, 9), (12, 7), (20, 14), (38, 27), (57, 68), (86, 47), (235, 148))
_MINUS = ((9, 4), (10, 3), (12, 5), (18, 7), (20, 6), (25, 11), (40, 15), (52, 19), (100, 37))
_TIMES = ((3, 3), (4, 7), (6, 8), (7, 7), (12, 4), (13, 6), (14, 9), (17, 5), (23, 8))

_UNITS = (
    ("seconds are in a minute", "60", "sixty"),
    ("minutes are in an hour", "60", "sixty"),
    ("hours are in a day", "24", "twenty-four"),
    ("days are in a week", "7", "seven"),
    ("months are in a year", "12", "twelve"),
    ("days are in a leap year", "366"),
    ("years are in a decade", "10", "ten"),
    ("years are in a century", "100", "hundred"),
    ("years are in a millennium", "1000", "thousand"),
    ("minutes are in half an hour", "30", "thirty"),
    ("days are in two weeks", "14", "fourteen"),
    ("months are in half a year", "6", "six"),
    ("centimeters are in a meter", "100", "hundred"),
    ("meters are in a kilometer", "1000", "thousand"),
    ("millimeters are in a centimeter", "10", "ten"),
    ("grams are in a kilogram", "1000", "thousand"),
    ("milliliters are in a liter", "1000", "thousand"),
    ("inches are in a foot", "12", "twelve"),
    ("feet are in a yard", "3", "three"),
    ("ounces are in a pound", "16", "sixteen"),
    ("cents are in a dollar", "100", "hundred"),
    ("quarts are in a gallon", "4", "four"),
    ("eggs are in a dozen", "12", "twelve"),
    ("degrees are in a right angle", "90", "ninety"),
    ("degrees are in a full circle", "360"),
    ("bits are in a byte", "8", "eight"),
)

_COUNTS = {
    "two": (("a chicken", "legs"), ("a bird", "wings"), ("a bicycle", "wheels"), ("a cat", "eyes")),
    "three": (("a triangle", "sides"), ("a tricycle", "wheels"), ("a traffic light", "colors")),
    "four": (
        ("a dog", "legs"),
        ("a cow", "legs"),
        ("a horse", "legs"),
        ("a square", "sides"),
        ("a rectangle", "corners"),
        ("a violin", "strings"),
        ("a year", "seasons"),
    ),
    "five": (("a pentagon", "sides"), ("a hand", "fingers"), ("a foot", "toes")),
    "six": (("an ant", "legs"), ("a bee", "legs"), ("a hexagon", "sides"), ("a cube", "faces")),
    "eight": (("a spider", "legs"), ("an octopus", "arms"), ("an octagon", "sides")),
}


def sums() -> list[Question]:
    """A sum of two numbers, a difference or a product, one of four equations."""
    return [
        *(_equation(f"{first} + {second}", first + second) for first, second in _PLUS),
        *(_equation(f"{first} - {second}", first - second) for first, second in _MINUS),
        *(_equation(f"{first} x {second}", first * second) for first, second in _TIMES),
    ]


def _equation(terms: str, result: int) -> Question:
    # As many digits: where one choice begins with all of another, the longer can never be chosen.
    near = [result + step for step in (-10, -3, -2, -1, 1, 2, 3, 10)]
    alike = [number for number in near if number > 0 and len(str(number)) == len(str(result))]
    wrong = random.Random(terms).sample(alike, 3)
    return choose(f"What is {terms}?", f"{terms} = {result}", [f"{terms} = {number}" for number in wrong])


def units() -> list[Question]:
    """How many of a smaller unit make a larger one, said freely."""
    return [say(f"How many {asked}?", *answers) for asked, *answers in _UNITS]


def counts() -> list[Question]:
    """How many parts a thing has, one of four sentences."""
    questions = []
    for number, things in _COUNTS.items():
        for thing, parts in things:
            prompt = f"How many {parts} does {thing} have?"
            wrong = [_has(thing, other, parts) for other in others(prompt, number, tuple(_COUNTS), 3)]
            questions.append(choose(prompt, _has(thing, number, parts), wrong))
    return questions


def _has(thing: str, number: str, parts: str) -> str:
    return f"{thing.capitalize()} has {number} {parts}."
