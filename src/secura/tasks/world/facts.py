"""The bundled world: who lives in it, what is true there, and its second language.

Everything is invented and drawn from one seed, so the world is the same on every
machine. It is small on purpose: a model of 1.4 M parameters learns all of it in half an
hour on two cores, and every loss of knowledge can be counted.

The road runs from south to north through all `PLACES`, in the order of the list.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

WORLD_SEED = 2502

PEOPLE = (
    *("Ada", "Bram", "Cleo", "Dov", "Edda", "Finn", "Gwen", "Hugo", "Ines", "Jory", "Kira"),
    *("Lars", "Mina", "Nils", "Orla", "Pavel", "Quin", "Rosa", "Sven", "Tove", "Ursa"),
    *("Vito", "Wim", "Xena", "Yara", "Zeno", "Abel", "Beth", "Cora", "Dirk", "Elsa", "Fay"),
)
PLACES = (
    *("Veldo", "Marn", "Tiska", "Oloma", "Brakk", "Sundel"),
    *("Koriv", "Palta", "Wenna", "Drusk", "Ilmar", "Hovet"),
)
TRADES = ("baker", "smith", "weaver", "miller", "potter", "sailor", "tailor", "farmer")
COLOURS = ("red", "blue", "green", "yellow", "black", "white", "brown", "grey")
KINDS: Mapping[str, tuple[str, ...]] = {
    "bird": ("heron", "crow", "owl", "swan", "wren", "goose"),
    "fish": ("trout", "eel", "carp", "pike", "cod", "bass"),
    "tool": ("hammer", "saw", "spade", "axe", "rake", "drill"),
    "fruit": ("apple", "plum", "pear", "fig", "cherry", "lemon"),
    "beast": ("wolf", "fox", "bear", "goat", "horse", "cow"),
}
NOUNS = tuple(noun for nouns in KINDS.values() for noun in nouns)
KIND_OF = {noun: kind for kind, nouns in KINDS.items() for noun in nouns}
PLURALS = (
    *("hammers", "saws", "spades", "axes", "rakes", "drills"),
    *("apples", "plums", "pears", "figs", "cherries", "lemons"),
)
OPPOSITE_PAIRS = (
    *(("hot", "cold"), ("big", "small"), ("early", "late"), ("wet", "dry"), ("loud", "quiet")),
    *(("fast", "slow"), ("soft", "hard"), ("sweet", "sour"), ("empty", "full"), ("open", "shut")),
)
OPPOSITE = {word: other for pair in OPPOSITE_PAIRS for word, other in (pair, pair[::-1])}
QUALITIES = tuple(OPPOSITE)
COUNTS = ("two", "three", "four", "five", "six")
VERBS = ("sees", "likes", "takes", "finds", "wants", "feeds")

_CONSONANTS = "bdfgklmnprstvz"
_VOWELS = "aeiou"
_YOUNGEST, _OLDEST = 12, 60


@dataclass(frozen=True, kw_only=True)
class World:
    """What is true in the world, and how its words are said in Ulvish, the second language."""

    home: Mapping[str, str]
    """Where each person lives."""
    age: Mapping[str, int]
    """Each person's age in years; no two people are the same age."""
    trade: Mapping[str, str]
    """What each person works as."""
    colour: Mapping[str, str]
    """Which colour each person likes."""
    ulvish: Mapping[str, str]
    """The Ulvish word for each noun, colour, count and verb."""


@cache
def the_world() -> World:
    """The world drawn from `WORLD_SEED`."""
    draw = random.Random(WORLD_SEED)
    ages = draw.sample(range(_YOUNGEST, _OLDEST), len(PEOPLE))
    return World(
        home=_share_out(PLACES, draw),
        age=dict(zip(PEOPLE, ages, strict=True)),
        trade=_share_out(TRADES, draw),
        colour=_share_out(COLOURS, draw),
        ulvish=_invent_words((*NOUNS, *COLOURS, *COUNTS, *VERBS), draw),
    )


def _share_out(values: tuple[str, ...], draw: random.Random) -> dict[str, str]:
    """Give each person one of `values`, each value to about as many people as any other."""
    shared = [values[index % len(values)] for index in range(len(PEOPLE))]
    draw.shuffle(shared)
    return dict(zip(PEOPLE, shared, strict=True))


def _invent_words(meanings: tuple[str, ...], draw: random.Random) -> dict[str, str]:
    """A word of two syllables for each meaning, no two alike."""
    syllables = [consonant + vowel for consonant in _CONSONANTS for vowel in _VOWELS]
    words = [first + second for first in syllables for second in syllables if first != second]
    return dict(zip(meanings, draw.sample(words, len(meanings)), strict=True))
