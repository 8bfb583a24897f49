"""Whether a free answer is right: the rules by which it is compared with the right answers.

A question names its rule (`Question.match`) and may have several right answers; one that fits is
enough. White space at the ends never counts.

| rule | an answer is right if | *Paris* is right for | and wrong for |
|---|---|---|---|
| `exact` | it is the right one letter for letter | `Paris` | `paris`, `Paris.` |
| `normalised` | it reads the same | `the  PARIS!` | `It is Paris.` |
| `first_line` | its first line that is not empty reads the same | `Paris.`, then more lines | `It is Paris.` |
| `contains` | the right one stands in it, in whole words | `It is Paris.` | `Comparison`, `Parisian` |
| `number` | its first number is the right one (below) | | |
| `json` | it is JSON of the same value (below) | | |

*Reads the same* means: equal once letters are lower case, and punctuation, quotation marks, signs of currency and of
percent, and the articles a, an and the before another word are left out. Hyphens part words, apostrophes do not:
`don't` is `dont`. A decimal point, the minus before a number and the dots of `U.S.` count as people read them, so 2.5
is not 25, -3 is not 3, 1,200 is 1200 and U.S. is US. Accents count. An answer of which nothing would be left, such as
`?`, is compared letter for letter.

`contains` does not understand what it reads: `It is not Paris` holds Paris. It needs words set apart by spaces; for
Chinese, Japanese or Thai use `first_line`.

`number` compares as numbers: 7, 7.0 and `7 apples` are one, `$1,200` is 1200. A number in words counts where it is
listed as a right answer, such as `seven`, and no number stands before it.

`json` takes all of an answer as one JSON text. Objects are equal if they have the same keys, in any order, with equal
values; numbers are compared as numbers, and true is not 1. A key that is there twice, NaN and text around the JSON make
an answer wrong: whatever reads it would stumble too.
"""

import json
import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from secura.evaluation.text_metrics import exact_match, first_number
from secura.tasks.question import Match, Question

_APOSTROPHES = re.compile("['’ʼ`´]")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_INITIALS = re.compile(r"(?<!\w)(?:[^\W\d_]\.){2,}")
_WORD = re.compile(
    r"""
    (?:(?<![\w)])-(?=\.?\d))?         # a minus, but not that of 10-5
    (?:\w+|(?<!\w)\.\d+)              # a word or a number, which may begin with its point
    (?:(?<=\d)\.\d\w*)*               # and what follows a decimal point
    """,
    re.VERBOSE,
)
_ARTICLES = ("a", "an", "the")


def is_right(question: Question, given: str) -> bool:
    """Whether an answer is right: the chosen one of the choices, or a free one by the question's rule."""
    return fits(question.match, given, question.right_answers)


def rule_as_json(question: Question) -> dict[str, Any]:
    """A question's rule beside its answer, for a file of answers; nothing for the ordinary one."""
    match: dict[str, Any] = {"match": question.match} if question.match != "exact" else {}
    return {**match, "accept": list(question.accept)} if question.accept else match


def fits(rule: Match, given: str, right: Sequence[str]) -> bool:
    """Whether an answer fits one of the right ones, by a rule of this file's table.

    Args:
        rule: how they are compared.
        given: the answer.
        right: the right answers, at least one.
    """
    match rule:
        case "exact":
            return any(exact_match(given, each) for each in right)
        case "normalised":
            return any(_reads_the_same(given, each) for each in right)
        case "first_line":
            return any(_reads_the_same(given.strip().partition("\n")[0], each) for each in right)
        case "contains":
            return any(_contains(given, each) for each in right)
        case "number":
            return _same_number(given, right)
        case "json":
            return any(_same_json(given, each) for each in right)


def normalised(text: str) -> str:
    """A text as it reads: its words in lower case, one space apart, without articles and punctuation."""
    text = unicodedata.normalize("NFKC", text).replace("\N{MINUS SIGN}", "-").casefold()
    text = _THOUSANDS.sub("", _APOSTROPHES.sub("", text))
    text = _INITIALS.sub(lambda found: found[0].replace(".", ""), text)
    words = [word for word in (found[0].strip("_") for found in _WORD.finditer(text)) if word]
    # An article stands before a word: the last of "the letter a" is none.
    return " ".join(word for place, word in enumerate(words) if word not in _ARTICLES or place == len(words) - 1)


def _reads_the_same(given: str, right: str) -> bool:
    wanted = normalised(right)
    return normalised(given) == wanted if wanted else exact_match(given, right)


def _contains(given: str, right: str) -> bool:
    wanted = normalised(right)
    return f" {wanted} " in f" {normalised(given)} " if wanted else exact_match(given, right)


def _same_number(given: str, right: Sequence[str]) -> bool:
    first = first_number(given)
    for each in right:
        number = first_number(each)
        if number is not None and first is not None and number[1] == first[1]:
            return True
        if number is None:
            word = re.search(rf"(?<!\w){re.escape(each.strip())}(?!\w)", given, re.IGNORECASE)
            if word is not None and (first is None or word.start() < first[0]):
                return True
    return False


def _same_json(given: str, right: str) -> bool:
    try:
        return _comparable(_parsed(given)) == _comparable(_parsed(right))
    except (ValueError, RecursionError):
        return False


def _parsed(text: str) -> Any:
    return json.loads(text, parse_float=Decimal, parse_int=Decimal, parse_constant=_refuse, object_pairs_hook=_object)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON.")


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a key is there twice.")
    return made


def _comparable(value: Any) -> Any:
    """A value beside its type: Python holds True for 1."""
    if isinstance(value, dict):
        return {key: _comparable(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_comparable(each) for each in value]
    return type(value), value
