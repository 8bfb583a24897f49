"""Sums of two and three numbers, bare and told as stories of things."""

from secura.tasks.drawing import Draw
from secura.tasks.question import Question
from secura.tasks.world.asking import free
from secura.tasks.world.facts import PEOPLE, PLURALS


def stock(draw: Draw) -> Question:
    """Things gained, gained twice or lost; never gained and then lost."""
    person, things = draw.choice(PEOPLE), draw.choice(PLURALS)
    first, second = draw.randint(1, 12), draw.randint(1, 12)
    question = f"How many {things} are there?"
    form = draw.randrange(3)
    if form == 0:
        return free(f"{person} has {first} {things} and gets {second} more. {question}", str(first + second))
    if form == 1:
        return free(f"{person} has {first + second} {things} and loses {second}. {question}", str(first))
    counts = [draw.randint(1, 8) for _ in range(3)]
    return free(
        f"{person} has {counts[0]} {things}, gets {counts[1]} more and gets {counts[2]} more. {question}",
        str(sum(counts)),
    )


def two_stocks(draw: Draw) -> Question:
    """Two people's things: one's count, the sum, and who has more."""
    people, things = draw.sample(PEOPLE, 2), draw.sample(PLURALS, 2)
    counts = draw.sample(range(1, 13), 2)
    story = " ".join(
        f"{person} has {count} {thing}." for person, count, thing in zip(people, counts, things, strict=True)
    )
    asked_for = draw.randrange(2)
    form = draw.randrange(3)
    if form == 0:
        question = f"How many {things[asked_for]} does {people[asked_for]} have?"
        return free(f"{story} {question}", str(counts[asked_for]))
    if form == 1:
        return free(f"{story} How many do they have together?", str(sum(counts)))
    return free(f"{story} Who has more?", people[0] if counts[0] > counts[1] else people[1])


def long_sum(draw: Draw) -> Question:
    """Sums of three bare numbers."""
    first, second, third = draw.randint(1, 8), draw.randint(1, 8), draw.randint(1, 8)
    if draw.random() < 0.5:
        return free(f"What is {first} plus {second} plus {third}?", str(first + second + third))
    total = first + second
    third = draw.randint(1, min(total - 1, 8))
    return free(f"What is {first} plus {second} minus {third}?", str(total - third))


def big_sum(draw: Draw) -> Question:
    """Sums in the range of people's ages."""
    first, second = draw.randint(12, 60), draw.randint(1, 9)
    if draw.random() < 0.5:
        return free(f"What is {first} plus {second}?", str(first + second))
    return free(f"What is {first + second} minus {second}?", str(first))
