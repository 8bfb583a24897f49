"""Following an instruction, and answering in the form that is asked for."""

import json

from secura.tasks.everyday.asking import say
from secura.tasks.question import Question

_WORDS = (
    "lamp",
    "river",
    "garden",
    "window",
    "butter",
    "music",
    "planet",
    "silver",
    "tiger",
    "pencil",
    "summer",
    "bottle",
    "forest",
    "market",
    "dragon",
    "castle",
    "pillow",
    "rocket",
    "winter",
    "mirror",
    "carpet",
    "ladder",
    "hammer",
    "basket",
)

_FIELDS = (
    ("name", "Anna"),
    ("city", "Rome"),
    ("color", "blue"),
    ("age", 7),
    ("animal", "cat"),
    ("day", "Monday"),
    ("count", 12),
    ("fruit", "apple"),
    ("country", "Japan"),
    ("price", 20),
    ("month", "May"),
    ("title", "Hello"),
    ("size", "small"),
    ("year", 1999),
    ("food", "bread"),
    ("first", "Tom"),
    ("weight", 65),
    ("job", "pilot"),
    ("sport", "tennis"),
    ("language", "Greek"),
    ("level", 3),
    ("metal", "gold"),
)


def letters() -> list[Question]:
    """The first or last letter of a word, said freely."""
    half = len(_WORDS) // 2
    return [
        *(say(f'What is the first letter of the word "{word}"?', word[0]) for word in _WORDS[:half]),
        *(say(f'What is the last letter of the word "{word}"?', word[-1]) for word in _WORDS[half:]),
    ]


def json_pairs() -> list[Question]:
    """A key and its value in JSON; a code fence or further keys around them do no harm."""
    return [
        say(f'Write a JSON object with the key "{key}" and the value {json.dumps(value)}.', json.dumps({key: value}))
        for key, value in _FIELDS
    ]


def words_on_a_line() -> list[Question]:
    """Three words on one line and nothing else on it, with commas or without."""
    return [
        say(
            f"Write these words on one line with commas between them: {' '.join(words)}",
            ", ".join(words),
            match="first_line",
        )
        for words in (_WORDS[place : place + 3] for place in range(len(_WORDS) - 2))
    ]
