import json

import pytest

from secura.evaluation.answer_match import fits, is_right, normalised, rule_as_json
from secura.tasks.data_rows import MATCHES, item_from_row
from secura.tasks.question import Match, Question


@pytest.mark.parametrize(
    ("rule", "given", "right", "expected"),
    [
        ("exact", "Paris", "Paris", True),
        ("exact", " Paris\n", "Paris", True),
        ("exact", "paris", "Paris", False),
        ("exact", "Paris.", "Paris", False),
        ("normalised", "the  PARIS!", "Paris", True),
        ("normalised", "“Paris”", "Paris", True),
        ("normalised", "**Paris**", "Paris", True),
        ("normalised", "_Paris_", "Paris", True),
        ("normalised", "It is Paris.", "Paris", False),
        ("normalised", "Paris\nIt is the capital.", "Paris", False),
        ("normalised", "A dog", "the dog", True),
        ("normalised", "a", "A", True),
        ("normalised", "The letter A.", "letter A", True),
        ("normalised", "don’t", "dont", True),
        ("normalised", "well-known", "well known", True),
        ("normalised", "3, 5, 7", "3 5 7", True),
        ("normalised", "U.S.A.", "USA", True),
        ("normalised", "8 a.m.", "8 am", True),
        ("normalised", "$1,200", "1200", True),
        ("normalised", "50 %", "50%", True),
        ("normalised", "2.5", "25", False),
        ("normalised", "-3", "3", False),
        ("normalised", "−3", "-3", True),
        ("normalised", "10-5", "10 5", True),
        ("normalised", "H₂O", "H2O", True),
        ("normalised", "STRASSE", "Straße", True),
        ("normalised", "resume", "résumé", False),
        ("normalised", "", "Paris", False),
        ("normalised", "?", "?", True),
        ("normalised", "!", "?", False),
        ("first_line", "Paris.\nIt is the capital.", "Paris", True),
        ("first_line", "\n\n Paris\n", "Paris", True),
        ("first_line", "It is\nParis", "Paris", False),
        ("first_line", "", "Paris", False),
        ("contains", "The answer is Paris.", "Paris", True),
        ("contains", "Comparison", "Paris", False),
        ("contains", "Parisian", "Paris", False),
        ("contains", "paris,France", "Paris", True),
        ("contains", "Well:\n\nIt's *Paris*!", "Paris", True),
        ("contains", "It is in New\nYork.", "New York", True),
        ("contains", "New and old York", "New York", False),
        ("contains", "I live in the Netherlands.", "The Netherlands", True),
        ("contains", "12 + 7 = 19", "19", True),
        ("contains", "12 + 7 = 190", "19", False),
        ("contains", "It is 19.5", "19", False),
        ("contains", "It is -19", "19", False),
        ("contains", "It is 1,900.", "1900", True),
        ("contains", "It is 19.", "19", True),
        ("contains", "the 3rd", "3", False),
        ("contains", "anything", "?", False),
        ("contains", "", "Paris", False),
        ("number", "7", "7", True),
        ("number", "7.0 apples", "7", True),
        ("number", "There are 7 days in 1 week.", "7", True),
        ("number", "1 week has 7 days.", "7", False),
        ("number", "$1,200.50", "1200.5", True),
        ("number", "-3", "3", False),
        ("number", "−3 degrees", "-3", True),
        ("number", "seven", "7", False),
        ("number", "no number", "7", False),
        ("number", "70", "7", False),
        ("json", '{"b": 2, "a": 1.0}', '{"a": 1, "b": 2}', True),
        ("json", '\n{"a": [1, "x", null]}\n', '{"a":[1,"x",null]}', True),
        ("json", '{"a": 12.50}', '{"a": 12.5}', True),
        ("json", '{"a": "12.5"}', '{"a": 12.5}', False),
        ("json", '{"a": true}', '{"a": 1}', False),
        ("json", '{"a": 1}', '{"a": 1, "b": 2}', False),
        ("json", '{"a": 1, "b": 2, "c": 3}', '{"a": 1, "b": 2}', False),
        ("json", '{"a": [1, 2]}', '{"a": [2, 1]}', False),
        ("json", '{"a": "X"}', '{"a": "x"}', False),
        ("json", '{"a": 1, "a": 1}', '{"a": 1}', False),
        ("json", '{"a": NaN}', '{"a": NaN}', False),
        ("json", '{"a": 0.1}', '{"a": 0.10000000000000000001}', False),
        ("json", 'Sure! {"a": 1}', '{"a": 1}', False),
        ("json", '{"a": 1', '{"a": 1}', False),
        ("json", "[" * 100_000, "[]", False),
        ("json", "", "[]", False),
    ],
)
def test_an_answer_fits_by_the_rule(rule: Match, given: str, right: str, expected: bool) -> None:
    assert fits(rule, given, [right]) is expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("Seven.", True),
        ("There are seven days in 1 week.", True),
        ("1 week has seven days.", False),
        ("seventy", False),
        ("7 days", True),
    ],
)
def test_a_number_in_words_counts_where_it_is_listed(given: str, expected: bool) -> None:
    assert fits("number", given, ["7", "seven"]) is expected


@pytest.mark.parametrize("rule", MATCHES)
def test_one_of_several_right_answers_is_enough_and_each_fits_itself(rule: Match) -> None:
    right = ['"2"', '"3"'] if rule == "json" else ["2", "3"]
    assert all(fits(rule, each, right) for each in right)
    assert not fits(rule, '"4"' if rule == "json" else "4", right)


def test_normalised_text_is_its_words() -> None:
    assert normalised("The  “Quick”, brown-fox's the 1,234.50 € a") == "quick brown foxs 1234.50 a"


def test_a_choice_is_right_letter_for_letter() -> None:
    question = Question(prompt="?", answer="Red", choices=("Red", "red"))
    assert is_right(question, "Red")
    assert not is_right(question, "red")


def test_a_rule_is_written_beside_an_answer_only_where_there_is_one() -> None:
    assert rule_as_json(Question(prompt="?", answer="a")) == {}
    ruled = item_from_row({"prompt": "?", "target": "7", "match": "number", "accept": ["seven"]}, where="row")
    assert isinstance(ruled, Question)
    assert rule_as_json(ruled) == {"match": "number", "accept": ["seven"]}
    assert json.dumps(rule_as_json(Question(prompt="?", answer="a", accept=("b",)))) == '{"accept": ["b"]}'
