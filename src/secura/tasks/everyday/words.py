"""English words: plurals, past tenses, opposites."""

from secura.tasks.everyday.asking import choose, others, say
from secura.tasks.question import Question

_PLURALS = (
    ("child", "children"),
    ("mouse", "mice"),
    ("foot", "feet"),
    ("tooth", "teeth"),
    ("goose", "geese"),
    ("man", "men"),
    ("woman", "women"),
    ("person", "people", "persons"),
    ("leaf", "leaves"),
    ("knife", "knives"),
    ("wolf", "wolves"),
    ("box", "boxes"),
    ("city", "cities"),
    ("baby", "babies"),
    ("bus", "buses", "busses"),
    ("church", "churches"),
    ("potato", "potatoes"),
    ("cat", "cats"),
    ("book", "books"),
    ("key", "keys"),
    ("story", "stories"),
    ("wife", "wives"),
    ("shelf", "shelves"),
    ("loaf", "loaves"),
    ("ox", "oxen"),
    ("hero", "heroes"),
    ("watch", "watches"),
    ("thief", "thieves"),
    ("fly", "flies"),
    ("half", "halves"),
)

_PAST = (
    ("go home", "went"),
    ("eat rice", "ate"),
    ("see a film", "saw"),
    ("take the bus", "took"),
    ("give him a book", "gave"),
    ("run fast", "ran"),
    ("write a letter", "wrote"),
    ("drink tea", "drank"),
    ("swim in the lake", "swam"),
    ("sing a song", "sang"),
    ("buy bread", "bought"),
    ("think about it", "thought"),
    ("teach children", "taught"),
    ("catch a fish", "caught"),
    ("bring some food", "brought"),
    ("fly to Rome", "flew"),
    ("know the answer", "knew"),
    ("grow flowers", "grew"),
    ("break a glass", "broke"),
    ("speak slowly", "spoke"),
    ("sleep well", "slept"),
    ("keep a secret", "kept"),
    ("make coffee", "made"),
    ("build a house", "built"),
    ("begin at noon", "began"),
    ("fall often", "fell"),
    ("ride a horse", "rode"),
    ("sell cars", "sold"),
)

# Asked from left to right alone: the opposite of "right" may be "left" or "wrong".
_OPPOSITES = {
    "hot": "cold",
    "tall": "short",
    "fast": "slow",
    "rich": "poor",
    "happy": "sad",
    "open": "closed",
    "full": "empty",
    "wet": "dry",
    "early": "late",
    "strong": "weak",
    "clean": "dirty",
    "loud": "quiet",
    "day": "night",
    "up": "down",
    "north": "south",
    "love": "hate",
    "buy": "sell",
    "push": "pull",
    "remember": "forget",
    "friend": "enemy",
    "war": "peace",
    "first": "last",
    "beautiful": "ugly",
    "deep": "shallow",
    "cheap": "expensive",
    "ancient": "modern",
    "increase": "decrease",
    "temporary": "permanent",
    "vertical": "horizontal",
    "guilty": "innocent",
    "rough": "smooth",
    "maximum": "minimum",
}


def plurals() -> list[Question]:
    """The plural of a noun, said freely."""
    return [say(f'What is the plural of "{noun}"?', *plurals) for noun, *plurals in _PLURALS]


def past_tense() -> list[Question]:
    """A sentence put into the past tense, said freely."""
    return [say(f"Put this sentence into the past tense: They {doing}.", past) for doing, past in _PAST]


def opposites() -> list[Question]:
    """The opposite of a word, one of four words."""
    answers = tuple(_OPPOSITES.values())
    return [
        choose(f'What is the opposite of "{word}"?', opposite, others(word, opposite, answers, 3))
        for word, opposite in _OPPOSITES.items()
    ]
