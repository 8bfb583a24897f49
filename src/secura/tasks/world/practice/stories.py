"""Stories of a sentence or two: who, what, where, and the same told in short."""

from secura.tasks.drawing import Draw
from secura.tasks.question import Question
from secura.tasks.world.asking import free, listed
from secura.tasks.world.facts import COLOURS, NOUNS, PEOPLE, PLACES, the_world


def gift(draw: Draw) -> Question:
    """One giving: who, to whom, what, which colour and where."""
    giver, taker = draw.sample(PEOPLE, 2)
    colour, noun, place = draw.choice(COLOURS), draw.choice(NOUNS), draw.choice(PLACES)
    question, answer = draw.choice(
        (
            ("Who gives?", giver),
            ("Who gets it?", taker),
            ("What is given?", noun),
            ("Which colour is it?", colour),
            ("Where are they?", place),
        )
    )
    return free(f"{giver} gives the {colour} {noun} to {taker} in {place}. {question}", answer)


def two_gifts(draw: Draw) -> Question:
    """A thing handed on twice: who has it at the end and who had it first."""
    people = draw.sample(PEOPLE, 3)
    noun = draw.choice(NOUNS)
    story = f"{people[0]} gives the {noun} to {people[1]}. {people[1]} gives the {noun} to {people[2]}."
    if draw.random() < 0.5:
        return free(f"{story} Who has the {noun} at the end?", people[2])
    return free(f"{story} Who had the {noun} first?", people[0])


def carried(draw: Draw) -> Question:
    """Things taken to places, and people who walk home."""
    carriers = draw.sample(PEOPLE, 2)
    nouns, places = draw.sample(NOUNS, 2), draw.sample(PLACES, 2)
    story = " ".join(
        f"{person} takes the {noun} to {place}." for person, noun, place in zip(carriers, nouns, places, strict=True)
    )
    asked_for = draw.randrange(2)
    form = draw.randrange(3)
    if form == 0:
        walker = carriers[0]
        return free(f"{walker} walks home. Where is {walker}?", the_world().home[walker])
    if form == 1:
        return free(f"{story} Where is the {nouns[asked_for]}?", places[asked_for])
    return free(f"{story} Who takes the {nouns[asked_for]}?", carriers[asked_for])


def coloured(draw: Draw) -> Question:
    """Coloured things: how many there are, and which is which."""
    nouns, colours = draw.sample(NOUNS, 3), draw.sample(COLOURS, 3)
    things = [f"the {colour} {noun}" for colour, noun in zip(colours, nouns, strict=True)]
    index = draw.randrange(3)
    form = draw.randrange(3)
    if form == 0:
        things = things[: draw.randint(1, 3)]
        return free(f"Here are {listed(things)}. How many are there?", str(len(things)))
    if form == 1:
        return free(f"Here are {listed(things)}. Which colour is the {nouns[index]}?", colours[index])
    return free(f"Here are {listed(things)}. Which one is {colours[index]}?", nouns[index])


def shorten(draw: Draw) -> Question:
    """Two sentences told in one."""
    world = the_world()
    first, second = draw.sample(PEOPLE, 2)
    form = draw.randrange(3)
    if form == 0:
        place = draw.choice(PLACES)
        return free(
            f"In short: {first} is in {place}. {second} is in {place}.",
            f"{first} and {second} are in {place}",
        )
    if form == 1:
        home, trade = world.home[first], world.trade[first]
        return free(f"In short: {first} lives in {home}. {first} works as {trade}.", f"{first} the {trade} of {home}")
    colour, noun = draw.choice(COLOURS), draw.choice(NOUNS)
    return free(f"In short: {first} sees the {noun}. The {noun} is {colour}.", f"{first} sees the {colour} {noun}")
