"""Words turned into others: Ulvish, opposites, letters, and rules from word to word."""

from secura.tasks.drawing import Draw
from secura.tasks.question import Question
from secura.tasks.world.asking import free, listed
from secura.tasks.world.facts import COLOURS, COUNTS, NOUNS, OPPOSITE, QUALITIES, VERBS, the_world


def rules(draw: Draw) -> Question:
    """One or two rules followed, with a rule that leads nowhere among them."""
    start, middle, end, *others = draw.sample(QUALITIES, 6)
    pairs = [(start, middle), (middle, end), (others[0], others[1])]
    draw.shuffle(pairs)
    written = " ".join(f"If {cause} then {effect}." for cause, effect in pairs)
    if draw.random() < 0.4:
        return free(f"{written} It is {start}. What is it next?", middle)
    return free(f"{written} It is {start}. What is it at the end?", end)


def word_list(draw: Draw) -> Question:
    """Words said in Ulvish and back, one by one in their order."""
    ulvish = the_world().ulvish
    words = draw.sample(NOUNS, draw.randint(2, 3))
    if draw.random() < 0.5:
        return free(f"What are {listed(words)} in Ulvish?", " ".join(ulvish[word] for word in words))
    words[1:] = [draw.choice(COLOURS + COUNTS)]
    draw.shuffle(words)
    said = " ".join(ulvish[word] for word in words)
    return free(f"What do the words {said} mean?", " ".join(words))


def sentence(draw: Draw) -> Question:
    """Statements in Ulvish, where the verb comes last."""
    ulvish = the_world().ulvish
    subject, thing = draw.sample(NOUNS, 2)
    verb = draw.choice(VERBS)
    if draw.random() < 0.5:
        return free(
            f"Say in Ulvish: the {subject} {verb} the {thing}.",
            f"{ulvish[subject]} {ulvish[thing]} {ulvish[verb]}",
        )
    return free(
        f"What does {ulvish[subject]} {ulvish[thing]} {ulvish[verb]} mean?",
        f"the {subject} {verb} the {thing}",
    )


def two_opposites(draw: Draw) -> Question:
    """The opposites of two words."""
    words = draw.sample(QUALITIES, 2)
    return free(f"What are the opposites of {listed(words)}?", " ".join(OPPOSITE[word] for word in words))


def spell(draw: Draw) -> Question:
    """The letters of a word, and the last letters of two."""
    words = draw.sample(NOUNS + COLOURS + QUALITIES, 2)
    if draw.random() < 0.5:
        return free(f"Spell the word {words[0]}.", " ".join(words[0]))
    return free(f"What are the last letters of {listed(words)}?", f"{words[0][-1]} {words[1][-1]}")
