import json
import re
from datetime import date

import pytest

from secura.evaluation.answer_match import is_right
from secura.tasks.catalogue import CATALOGUE
from secura.tasks.drawing import Draw
from secura.tasks.office import orders
from secura.tasks.office.orders import KEYS, order_question
from secura.tasks.question import Question
from secura.tasks.task import Split
from secura.tasks.task_items import task_items

TASK = CATALOGUE["order_json"]
DRAWN = [order_question(Draw(seed)) for seed in range(500)]


def rows(split: Split, count: int | None = None, seed: int = 0) -> list[Question]:
    return [item for item in task_items(TASK, split=split, count=count, seed=seed) if isinstance(item, Question)]


def message(question: Question) -> str:
    return question.prompt.partition("\n\n")[2]


def test_400_rows_are_learned_and_100_asked_unless_more_are_wanted_and_none_is_both() -> None:
    learned, asked = rows("train"), rows("test")
    assert (len(learned), len(asked)) == (400, 100)
    many = {question.prompt for seed in range(3) for question in rows("train", 3000, seed)}
    assert len(many) > 8900
    assert not many & {question.prompt for question in rows("test", 2000, 7)}


def test_rows_follow_from_the_seed() -> None:
    assert rows("train", 50, 1) == rows("train", 50, 1)
    assert rows("train", 50, 1) != rows("train", 50, 2)


def test_an_answer_is_one_line_of_json_with_the_fixed_keys_in_order() -> None:
    for question in DRAWN:
        assert "\n" not in question.answer
        read = json.loads(question.answer)
        assert tuple(read) == KEYS
        assert read["intent"] in orders._MESSAGES
        assert re.fullmatch(r"[A-Z]{2}-\d{5}", read["order"])
        assert 3 <= read["amount"] < 1000
        assert re.search(r'"amount": \d+\.\d\d,', question.answer)
        assert read["currency"] in orders._CURRENCIES
        assert date.fromisoformat(read["date"]).year in range(2021, 2026)
        assert question.match == "json"


def test_everything_in_the_answer_stands_in_the_message() -> None:
    for question in DRAWN:
        read, said = json.loads(question.answer), message(question)
        assert read["order"] in said
        assert f"{read['amount']:.2f}" in said
        day = date.fromisoformat(read["date"])
        assert str(day.year) in said
        written = {f"{day.day} {day:%B}", f"{day:%B} {day.day},", f"{day:%b} {day.day},", f"{day.day}.{day.month}."}
        assert day.isoformat() in said or any(each in said for each in written)


@pytest.mark.parametrize("varied", ["intent", "currency"])
def test_every_value_is_drawn(varied: str) -> None:
    found = {json.loads(question.answer)[varied] for question in DRAWN}
    assert found == set(orders._MESSAGES if varied == "intent" else orders._CURRENCIES)


def test_a_sign_of_currency_names_one_currency_and_no_wording_two_intents() -> None:
    signs = [form for forms in orders._CURRENCIES.values() for form in forms]
    wordings = [wording for wordings in orders._MESSAGES.values() for wording in wordings]
    assert len(set(signs)) == len(signs)
    assert len(set(wordings)) == len(wordings)


def test_fields_are_compared_and_not_letters() -> None:
    question = DRAWN[0]
    read = json.loads(question.answer)
    assert is_right(question, json.dumps(dict(reversed(read.items()))))
    assert is_right(question, json.dumps(read, separators=(",", ":")))
    for key in KEYS:
        assert not is_right(question, json.dumps({**read, key: "other"}))
        assert not is_right(question, json.dumps({name: value for name, value in read.items() if name != key}))
    assert not is_right(question, f"Here it is: {question.answer}")


def test_no_answer_is_cut() -> None:
    assert max(len(question.answer) for question in DRAWN) <= TASK.max_answer_tokens  # a character a token at worst
