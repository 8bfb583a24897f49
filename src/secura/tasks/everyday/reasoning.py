"""Reasoning: what follows from two sentences, the most of several things, and sense against nonsense."""

import random

from secura.tasks.everyday.asking import choose, say
from secura.tasks.question import Question

_LIKES = (("cat", "fish"), ("rabbit", "carrots"), ("monkey", "bananas"), ("bear", "honey"), ("dog", "bones"))
_PAINTED = (("bus", "red"), ("house", "white"), ("boat", "green"), ("bicycle", "yellow"), ("fence", "blue"))
_PLACES = ("museum", "library", "cinema", "gym", "market")
_PRIZES = ("medal", "book", "ticket", "cake", "new shirt")
_PUT = (("key", "drawer"), ("cup", "cupboard"), ("letter", "bag"), ("apple", "basket"), ("ring", "box"))

_ORDERED = (
    ("largest", ("an ant", "a mouse", "a dog", "a horse", "an elephant")),
    ("heaviest", ("a feather", "a pencil", "a brick", "a car", "a ship")),
    ("fastest", ("a snail", "a person walking", "a bicycle", "a car", "a jet plane")),
    ("longest", ("a second", "a minute", "an hour", "a day", "a year")),
    ("hottest", ("an ice cube", "a cold drink", "a warm bath", "boiling water", "the sun")),
    ("oldest", ("a baby", "a child", "a teenager", "a parent", "a great-grandparent")),
    ("tallest", ("a flower", "a person", "a house", "a skyscraper", "a mountain")),
    ("most expensive", ("a pencil", "a book", "a bicycle", "a car", "a palace")),
)
"""Things in a rising order."""

_SENSE = (
    ("She turned on the lamp because the room was {}.", "dark", "bright", "warm", "clean"),
    ("The ice melted because the day was {}.", "hot", "freezing", "dark", "short"),
    ("He put on a thick coat because it was {}.", "cold", "hot", "noon", "Monday"),
    ("She drank two glasses of water because she was {}.", "thirsty", "wet", "tall", "full"),
    ("He went to bed early because he was {}.", "tired", "rested", "hungry", "tall"),
    ("The bread was hard because it was {}.", "old", "fresh", "soft", "warm"),
    ("The road was slippery because it was covered with {}.", "ice", "shade", "asphalt", "sunlight"),
    ("She whispered so that the baby would stay {}.", "asleep", "awake", "hungry", "dirty"),
    ("He ran to the station because he was {}.", "late", "early", "slow", "asleep"),
    ("The cake burned because the oven was too {}.", "hot", "cold", "small", "clean"),
    ("You should wash your hands when they are {}.", "dirty", "clean", "cold", "long"),
    ("The car stopped because it ran out of {}.", "gas", "music", "passengers", "paint"),
    ("He wore sunglasses because the sun was {}.", "bright", "dim", "cold", "round"),
    ("To look at the stars, he used a {}.", "telescope", "microscope", "thermometer", "compass"),
    ("To see how high the fever was, the nurse used a {}.", "thermometer", "telescope", "scale", "clock"),
    ("To find north, the sailor looked at the {}.", "compass", "clock", "thermometer", "mirror"),
    ("To weigh the flour, the cook used a {}.", "scale", "ruler", "clock", "fork"),
    ("To dry her hair, she used a {}.", "towel", "comb", "mirror", "pillow"),
    ("The glass broke because it fell on the {}.", "floor", "pillow", "cushion", "bed"),
    ("Milk is kept in the fridge so that it stays {}.", "fresh", "warm", "sour", "dry"),
    ("We could not see the road because of the {}.", "fog", "sunshine", "silence", "speed"),
    ("He could not open the door because he had lost his {}.", "key", "hat", "shoe", "watch"),
    ("Many birds fly south in autumn because winter is too {}.", "cold", "warm", "green", "bright"),
    ("The soup was too hot, so he waited for it to {}.", "cool", "boil", "burn", "freeze"),
    ("It was noon, so the shadows were {}.", "short", "long", "loud", "heavy"),
    ("A hammer is used to drive {}.", "nails", "cars", "screws", "trains"),
)
"""A sentence, the word that belongs there, and three that do not."""


def conclusions() -> list[Question]:
    """What follows from two sentences, said freely."""
    return [
        *(say(f"All {kind}s like {food}. Mimi is a {kind}. What does Mimi like?", food) for kind, food in _LIKES),
        *(
            say(f"Every {thing} in this town is {color}. Tom has a {thing} from this town. What color is it?", color)
            for thing, color in _PAINTED
        ),
        *(
            say(f"When it rains, Anna goes to the {place}. Today it rains. Where does Anna go today?", place)
            for place in _PLACES
        ),
        *(
            say(f"Everyone on the team got a {prize}. Sara is on the team. What did Sara get?", prize)
            for prize in _PRIZES
        ),
        *(
            say(f"Ben put the {thing} into the {inside}. Nobody moved it. Where is the {thing}?", inside)
            for thing, inside in _PUT
        ),
    ]


def comparisons() -> list[Question]:
    """Which of three things is the most in some way."""
    questions = []
    for most, things in _ORDERED:
        for places in ((0, 1, 4), (0, 2, 3), (1, 2, 4), (1, 3, 4)):
            *less, answer = (things[place] for place in places)
            shown = random.Random(f"{most}{places}").sample([*less, answer], 3)
            prompt = f"Which of these is the {most}: {shown[0]}, {shown[1]} or {shown[2]}?"
            questions.append(choose(prompt, answer, less))
    return questions


def sense() -> list[Question]:
    """The word that makes sense in a sentence, one of four sentences."""
    return [
        choose(
            f"Complete this sentence so that it makes sense: {frame.format('...')}",
            frame.format(right),
            [frame.format(each) for each in wrong],
        )
        for frame, right, *wrong in _SENSE
    ]
