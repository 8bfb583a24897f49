"""Plain sentences about the world, so that the model reads more than questions."""

from secura.tasks.drawing import Draw
from secura.tasks.world.facts import KIND_OF, NOUNS, PEOPLE, PLACES, QUALITIES, TRADES, the_world


def statement(draw: Draw) -> str:
    """A few true sentences about one person, one word or one stretch of the road."""
    world = the_world()
    person = draw.choice(PEOPLE)
    home, age = world.home[person], world.age[person]
    noun, place = draw.choice(NOUNS), draw.randrange(len(PLACES) - 1)
    neighbours = [other for other in PEOPLE if world.home[other] == home]
    youngest = min(neighbours, key=world.age.__getitem__)
    sentences = [
        f"{person} lives in {home}.",
        f"{person} is {age} years old.",
        f"{person} works as {world.trade[person]}.",
        f"{person} likes {world.colour[person]}.",
        f"In {draw.randint(1, 9)} years {person} is older than now.",
        f"The youngest person of {home} is {youngest}.",
        f"{person} is not different from {person}.",
        f"The {noun} is a {KIND_OF[noun]} and does not fit in a list of {draw.choice(TRADES)} things.",
        f"{PLACES[place + 1]} is just north of {PLACES[place]}.",
        f"{person} goes home to {home} and says {world.ulvish[noun]} in Ulvish for {noun}.",
        f"Ask {person} in English or in Ulvish what the first letters of {noun} are.",
        f"{draw.choice(QUALITIES)} words and {draw.choice(QUALITIES)} words are on two places of the road.",
    ]
    return " ".join(draw.sample(sentences, draw.randint(2, 4)))
