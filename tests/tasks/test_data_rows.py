import pytest

from secura.errors import DataError
from secura.tasks.data_rows import item_from_row
from secura.tasks.question import PlainText, Question

WHERE = "data.jsonl, line 3"


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "1 + 1?", "completion": "2"},
        {"prompt": "1 + 1?", "target": "2"},
        {"question": "1 + 1?", "answer": "2"},
        {"messages": [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]},
    ],
)
def test_every_way_to_write_a_free_answer_gives_the_same_question(row: dict) -> None:
    assert item_from_row(row, where=WHERE) == Question(prompt="1 + 1?", answer="2")


def test_a_choice_may_be_given_by_number_or_by_text() -> None:
    by_number = {"question": "Sky?", "choices": ["red", "blue"], "answer": 1, "family": "colours"}
    by_text = {**by_number, "answer": "blue"}
    expected = Question(prompt="Sky?", answer="blue", choices=("red", "blue"), family="colours")
    assert item_from_row(by_number, where=WHERE) == item_from_row(by_text, where=WHERE) == expected


def test_a_longer_chat_keeps_its_turns_and_answers_with_the_last_assistant_turn() -> None:
    turns = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "1 + 1?"},
    ]
    messages = [*turns, {"role": "assistant", "content": "2"}, {"role": "user", "content": "thanks"}]
    question = item_from_row({"messages": messages}, where=WHERE)
    assert isinstance(question, Question)
    assert question.answer == "2"
    assert list(question.asked) == turns


def test_a_row_may_say_how_its_answer_is_compared_and_what_else_is_right() -> None:
    rule = {"match": "number", "accept": [" seven ", "VII"]}
    chat = {"messages": [{"role": "user", "content": "Days?"}, {"role": "assistant", "content": "7"}]}
    expected = Question(prompt="Days?", answer="7", match="number", accept=("seven", "VII"))
    assert item_from_row({"prompt": "Days?", "target": "7", **rule}, where=WHERE) == expected
    assert item_from_row({**chat, **rule}, where=WHERE) == expected


def test_a_row_with_text_alone_is_plain_text() -> None:
    assert item_from_row({"text": "Once."}, where=WHERE) == PlainText(text="Once.")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "a"}, "lacks 'completion' or 'target'"),
        ({"question": "a"}, "lacks 'answer'"),
        ({"answer": "a"}, "lacks 'question'"),
        ({"foo": "a"}, "has none of the needed keys"),
        ({"choices": ["a", "b"], "answer": 0}, "lacks 'question'"),
        ({"question": "a", "choices": ["a", "b"], "answer": 2}, "counts from 0 to 1"),
        ({"question": "a", "choices": ["a", "b"], "answer": "c"}, "neither a number nor one of"),
        ({"question": "a", "choices": "ab", "answer": 0}, "not a list of two or more texts"),
        ({"question": "a", "choices": ["a", "a"], "answer": 0}, "repeat themselves"),
        ({"question": "a", "answer": 3}, "'answer' is 3, not a text"),
        ({"question": "a", "answer": "b", "match": "contain"}, "'match' is 'contain'; the nearest is 'contains'"),
        ({"question": "a", "answer": "b", "match": 3}, "'match' is 3; the nearest is"),
        ({"question": "a", "answer": "b", "match": ["json"]}, "all are exact, normalised, first_line"),
        ({"question": "a", "answer": "b", "accept": "c"}, "'accept' is 'c', not a list of texts"),
        ({"question": "a", "answer": "b", "accept": ["c", " "]}, "not a list of texts"),
        ({"question": "a", "answer": "{b}", "match": "json"}, "'match' is json, but '{b}' is not"),
        ({"prompt": "a", "target": " "}, "'target' is empty"),
        ({"text": ""}, "'text' is empty"),
        ({"messages": []}, "not a list of turns"),
        ({"messages": [{"role": "user", "content": "a"}]}, "no assistant turn"),
        ({"messages": [{"role": "user"}]}, "turn 1 of 'messages' lacks"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "nothing it answers"),
        (["a"], "not an object"),
    ],
)
def test_a_row_that_cannot_be_used_is_refused_with_its_line(row: object, says: str) -> None:
    with pytest.raises(DataError) as raised:
        item_from_row(row, where=WHERE)
    assert str(raised.value).startswith(f"{WHERE}: ")
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)
