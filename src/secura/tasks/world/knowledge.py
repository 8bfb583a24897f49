"""What the bundled model knows before it learns anything new, asked family by family.

Each family is a function that draws one question; the same functions make the text the
model is pretrained on and the questions by which later forgetting is counted.
"""

from collections.abc import Callable

from secura.tasks.drawing import Draw, distinct_questions
from secura.tasks.question import Question
from secura.tasks.world.asking import choice, free, listed
from secura.tasks.world.facts import (
    COLOURS,
    COUNTS,
    KIND_OF,
    KINDS,
    NOUNS,
    OPPOSITE,
    PEOPLE,
    PLACES,
    QUALITIES,
    the_world,
)


def _home(draw: Draw) -> Question:
    person = draw.choice(PEOPLE)
    form = draw.choice(("Where does {} live?", "In which place is the home of {}?"))
    return free(form.format(person), the_world().home[person])


def _age(draw: Draw) -> Question:
    person = draw.choice(PEOPLE)
    form = draw.choice(("How old is {}?", "What is the age of {}?"))
    return free(form.format(person), str(the_world().age[person]))


def _trade(draw: Draw) -> Question:
    person = draw.choice(PEOPLE)
    form = draw.choice(("What is the trade of {}?", "What does {} work as?"))
    return free(form.format(person), the_world().trade[person])


def _colour(draw: Draw) -> Question:
    person = draw.choice(PEOPLE)
    form = draw.choice(("Which colour does {} like?", "What is the colour that {} likes?"))
    return free(form.format(person), the_world().colour[person])


def _kind(draw: Draw) -> Question:
    noun = draw.choice(NOUNS)
    kinds = draw.sample(tuple(KINDS), 5)
    return choice(f"What is the {noun}: {listed(kinds[:-1])} or {kinds[-1]}?", KIND_OF[noun], kinds)


def _road(draw: Draw) -> Question:
    index = draw.randrange(len(PLACES) - 1)
    south, north = PLACES[index], PLACES[index + 1]
    if draw.random() < 0.5:
        return free(f"Which place is just north of {south}?", north)
    return free(f"Which place is just south of {north}?", south)


def _opposite(draw: Draw) -> Question:
    word = draw.choice(QUALITIES)
    form = draw.choice(("What is the opposite of {}?", "If it is not {}, what is it?"))
    return free(form.format(word), OPPOSITE[word])


def _sum(draw: Draw) -> Question:
    first, second = draw.randint(1, 12), draw.randint(1, 12)
    if draw.random() < 0.5:
        return free(f"What is {first} plus {second}?", str(first + second))
    return free(f"What is {first + second} minus {second}?", str(first))


def _word(draw: Draw) -> Question:
    meaning, word = draw.choice(tuple(the_world().ulvish.items()))
    if draw.random() < 0.5:
        return free(f"What is {meaning} in Ulvish?", word)
    return free(f"What does {word} mean?", meaning)


def _phrase(draw: Draw) -> Question:
    ulvish = the_world().ulvish
    noun, first = draw.choice(NOUNS), draw.choice(COLOURS + COUNTS)
    return free(f"Say {first} {noun} in Ulvish.", f"{ulvish[noun]} {ulvish[first]}")


def _letter(draw: Draw) -> Question:
    word = draw.choice(NOUNS + COLOURS + QUALITIES)
    if draw.random() < 0.5:
        return free(f"What is the first letter of {word}?", word[0])
    return free(f"What is the last letter of {word}?", word[-1])


def _older(draw: Draw) -> Question:
    pair = draw.sample(PEOPLE, 2)
    older = max(pair, key=the_world().age.__getitem__)
    return choice(f"Who is older, {pair[0]} or {pair[1]}?", older, pair)


def _true_home(draw: Draw) -> Question:
    person = draw.choice(PEOPLE)
    home = the_world().home[person]
    place = home if draw.random() < 0.5 else draw.choice([other for other in PLACES if other != home])
    return choice(f"Does {person} live in {place}, yes or no?", "yes" if place == home else "no", ("yes", "no"))


KNOWLEDGE: dict[str, Callable[[Draw], Question]] = {
    "homes": _home,
    "ages": _age,
    "trades": _trade,
    "colours": _colour,
    "kinds": _kind,
    "road": _road,
    "opposites": _opposite,
    "sums": _sum,
    "words": _word,
    "phrases": _phrase,
    "letters": _letter,
    "older": _older,
    "true_homes": _true_home,
}


def knowledge_questions(count_per_family: int = 50, seed: int = 0) -> list[Question]:
    """Questions that the bundled model answers before it learns a new task.

    Args:
        count_per_family: how many different questions to draw of each family; a family
            that has fewer gives all it has, or nearly all.
        seed: which questions are drawn.

    Returns:
        The questions, family after family; `Question.family` names the family.
    """
    return [
        question
        for family, draw_one in KNOWLEDGE.items()
        for question in distinct_questions(draw_one, family, count_per_family, f"{family}/{seed}")
    ]
