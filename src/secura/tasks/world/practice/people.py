"""The known people compared, picked out and sent along the road."""

from secura.tasks.drawing import Draw
from secura.tasks.question import Question
from secura.tasks.world.asking import free, listed
from secura.tasks.world.facts import PEOPLE, PLACES, the_world

ORDINALS = ("first", "second", "third", "fourth")


def age_gap(draw: Draw) -> Question:
    """A person's age some years ago, and whether it is below a number."""
    person = draw.choice(PEOPLE)
    age = the_world().age[person]
    years = draw.randint(1, 9)
    if draw.random() < 0.5:
        return free(f"How old was {person} {years} years ago?", str(age - years))
    limit = draw.randint(10, 62)
    limit = limit + 1 if limit == age else limit
    return free(f"Is {person} younger than {limit}, yes or no?", "yes" if age < limit else "no")


def same(draw: Draw) -> Question:
    """Whether two people share home, trade or colour."""
    world = the_world()
    value_of, words = draw.choice(
        (
            (world.home, "live in the same place"),
            (world.trade, "have the same trade"),
            (world.colour, "like the same colour"),
        )
    )
    first = draw.choice(PEOPLE)
    want_same = draw.random() < 0.5
    second = draw.choice(
        [other for other in PEOPLE if other != first and (value_of[other] == value_of[first]) is want_same]
    )
    return free(f"Do {first} and {second} {words}, yes or no?", "yes" if want_same else "no")


def oldest(draw: Draw) -> Question:
    """The oldest of three people."""
    people = draw.sample(PEOPLE, 3)
    return free(f"Who is the oldest: {listed(people)}?", max(people, key=the_world().age.__getitem__))


def which_person(draw: Draw) -> Question:
    """Which of two or three people lives in a place or works at a trade."""
    world = the_world()
    people = draw.sample(PEOPLE, 3)
    value_of, words = draw.choice(((world.home, "lives in {}"), (world.trade, "works as {}")))
    value = value_of[people[0]]
    people = [people[0], *(other for other in people[1:] if value_of[other] != value)]
    found = people[0]
    draw.shuffle(people)
    return free(f"Which of {listed(people)} {words.format(value)}?", found)


def road_walk(draw: Draw) -> Question:
    """One step along the road, the place between two others, and the road's first places."""
    index = draw.randrange(len(PLACES) - 2)
    person = draw.choice(PEOPLE)
    south, middle, north = PLACES[index : index + 3]
    form = draw.randrange(4)
    if form == 0:
        return free(f"{person} starts in {south} and walks one place north. Where is {person}?", middle)
    if form == 1:
        return free(f"{person} starts in {north} and walks one place south. Where is {person}?", middle)
    if form == 2:
        return free(f"Which place is between {south} and {north}?", middle)
    index = draw.randrange(len(ORDINALS))
    return free(f"Which place is the {ORDINALS[index]} on the road?", PLACES[index])
