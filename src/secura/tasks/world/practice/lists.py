"""Lists of words: positions, copies, counts, and what belongs to a kind."""

from secura.tasks.drawing import Draw
from secura.tasks.question import Question
from secura.tasks.world.asking import free, listed
from secura.tasks.world.facts import COLOURS, KIND_OF, KINDS, NOUNS, QUALITIES


def list_position(draw: Draw) -> Question:
    """The first, second or last word of a list; never the third."""
    words = draw.sample(NOUNS + QUALITIES, draw.randint(3, 5))
    index, name = draw.choice(((0, "first"), (1, "second"), (-1, "last")))
    return free(f"The list is {listed(words)}. What is the {name} word?", words[index])


def list_neighbour(draw: Draw) -> Question:
    """The word after or before another in a list."""
    words = draw.sample(NOUNS + QUALITIES, draw.randint(3, 5))
    index = draw.randrange(len(words) - 1)
    before, after = words[index], words[index + 1]
    if draw.random() < 0.5:
        return free(f"The list is {listed(words)}. What comes after {before}?", after)
    return free(f"The list is {listed(words)}. What comes before {after}?", before)


def list_copy(draw: Draw) -> Question:
    """A list said again, whole or without a word, and pairs turned around."""
    words = draw.sample(NOUNS + QUALITIES + COLOURS, draw.randint(2, 5))
    form = draw.randrange(4)
    if form == 0:
        return free(f"Say the list: {listed(words)}.", " ".join(words))
    if form == 1:
        return free(f"Say the list without the first word: {listed(words)}.", " ".join(words[1:]))
    if form == 2:
        left_out = draw.choice(words)
        kept = [word for word in words if word != left_out]
        return free(f"Say the list without {left_out}: {listed(words)}.", " ".join(kept))
    return free(f"Turn the two words around: {listed(words[:2])}.", f"{words[1]} {words[0]}")


def list_count(draw: Draw) -> Question:
    """How many words a list has, and how many of one kind."""
    if draw.random() < 0.5:
        words = draw.sample(NOUNS + QUALITIES, draw.randint(1, 6))
        return free(f"How many words are in the list: {listed(words)}?", str(len(words)))
    kind = draw.choice(tuple(KINDS))
    count = draw.randint(0, 4)
    others = [noun for noun in NOUNS if KIND_OF[noun] != kind]
    words = draw.sample(KINDS[kind], count) + draw.sample(others, draw.randint(1, 4))
    draw.shuffle(words)
    return free(f"How many of kind {kind} are in the list: {listed(words)}?", str(count))


def find_kind(draw: Draw) -> Question:
    """The one word of a list that is, or is not, of a kind."""
    kind, other = draw.sample(tuple(KINDS), 2)
    if draw.random() < 0.5:
        rest = draw.sample([noun for noun in NOUNS if KIND_OF[noun] != kind], 3)
        found = draw.choice(KINDS[kind])
        words = [found, *rest]
        draw.shuffle(words)
        return free(f"Which of these is the {kind}: {listed(words)}?", found)
    found = draw.choice(KINDS[other])
    words = [found, *draw.sample(KINDS[kind], 3)]
    draw.shuffle(words)
    return free(f"Which of these is not a {kind}: {listed(words)}?", found)
