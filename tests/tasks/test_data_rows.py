import pytest

from secura.errors import DataError
from secura.tasks.data_rows import item_from_row, renamed, unused_columns
from secura.tasks.question import Chat, PlainText, Question

WHERE = "data.jsonl, line 3"


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "1 + 1?", "completion": "2"},
        {"prompt": "1 + 1?", "target": "2"},
        {"question": "1 + 1?", "answer": "2"},
        {"messages": [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]},
        {"prompt": "1 + 1?", "response": "2"},
        {"instruction": "1 + 1?", "input": "", "output": "2"},
        {"instruction": "1 + 1?", "response": "2"},
        {"conversations": [{"from": "human", "value": "1 + 1?"}, {"from": "gpt", "value": "2"}]},
        {"conversations": [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]},
        {"prompt": [{"role": "user", "content": "1 + 1?"}], "completion": [{"role": "assistant", "content": "2"}]},
        {"prompt": [{"role": "user", "content": "1 + 1?"}], "completion": "2"},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "1 + 1?"}]},
                {"role": "gpt", "content": "2"},
            ]
        },
        {"messages": '[{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]'},
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


ASKED = [{"role": "user", "content": "a"}]
ANSWERED = {"role": "assistant", "content": "b"}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"place": "Oslo"}'}}


def test_tools_and_calls_reach_the_question_as_chat_templates_take_them() -> None:
    turns = [{"role": "user", "content": "Rain?"}, {"role": "assistant", "content": None, "tool_calls": [CALL]}]
    question = item_from_row({"messages": turns, "tools": [WEATHER]}, where=WHERE)
    assert isinstance(question, Question)
    assert question.asked == Chat(turns=({"role": "user", "content": "Rain?"},), tools=(WEATHER,))
    called = {"name": "weather", "arguments": {"place": "Oslo"}}
    assert question.answered == {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "call_1", "type": "function", "function": called}],
    }
    assert question.answer == '{"name": "weather", "arguments": {"place": "Oslo"}}'


def test_what_arrow_adds_to_tools_and_calls_is_left_out() -> None:
    padded = {**CALL, "function": {"name": "weather", "arguments": {"place": "Oslo", "day": None}}}
    schema = {"type": "function", "function": {"name": "weather", "parameters": {"properties": {"day": None}}}}
    messages = [
        {"role": "user", "content": "Rain?", "tool_calls": None},
        {"role": "assistant", "content": None, "tool_calls": [padded]},
        {"role": "tool", "content": "no", "tool_calls": None},
        {"role": "assistant", "content": "No rain.", "tool_calls": None},
    ]
    question = item_from_row({"messages": messages, "tools": [schema]}, where=WHERE)
    assert isinstance(question, Question)
    assert question.turns[0] == {"role": "user", "content": "Rain?"}
    assert question.turns[1]["tool_calls"][0]["function"]["arguments"] == {"place": "Oslo"}
    assert question.tools == ({"type": "function", "function": {"name": "weather", "parameters": {"properties": {}}}},)
    assert question.answered == "No rain."


def test_a_call_as_sharegpt_writes_it_is_a_tool_call() -> None:
    row = {
        "conversations": [
            {"from": "human", "value": "Rain?"},
            {"from": "function_call", "value": '{"name": "weather", "arguments": {"place": "Oslo"}}'},
            {"from": "observation", "value": "no"},
            {"from": "gpt", "value": "No rain."},
        ],
        "tools": '[{"name": "weather"}]',
    }
    question = item_from_row(row, where=WHERE)
    assert isinstance(question, Question)
    call = {"type": "function", "function": {"name": "weather", "arguments": {"place": "Oslo"}}}
    assert question.turns[1:] == (
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "no"},
    )
    assert question.tools == ({"name": "weather"},)


def test_an_input_follows_its_instruction_and_system_and_history_come_before() -> None:
    row = {"instruction": "Add.", "input": "1 and 1", "output": "2", "system": "Be short.", "history": [["Hi", "Yes?"]]}
    question = item_from_row(row, where=WHERE)
    assert isinstance(question, Question)
    assert question.turns == (
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Add.\n\n1 and 1"},
    )
    assert question.answer == "2"


def test_a_system_column_opens_a_chat_that_has_no_system_turn() -> None:
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes?"}]
    plain = item_from_row({"conversations": turns, "system": "Be short."}, where=WHERE)
    own = item_from_row(
        {"conversations": [{"from": "system", "value": "Be long."}, *turns], "system": "x"}, where=WHERE
    )
    assert isinstance(plain, Question)
    assert isinstance(own, Question)
    assert [turn["content"] for turn in (plain.turns[0], own.turns[0])] == ["Be short.", "Be long."]


def test_of_two_lists_of_messages_the_completion_alone_is_learned() -> None:
    row = {
        "prompt": [*ASKED, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}],
        "completion": [{"role": "assistant", "content": "d"}],
    }
    question = item_from_row(row, where=WHERE)
    assert isinstance(question, Question)
    assert [turn.get("weight", 1) for turn in question.turns] == [1, 0, 1]
    assert question.answer == "d"


def test_columns_that_nothing_is_read_from_are_named_and_renamed_ones_are_read() -> None:
    row = {"vraag": "1 + 1?", "antwoord": "2", "id": 7, "source": None}
    read = renamed(row, {"prompt": "vraag", "completion": "antwoord"})
    assert item_from_row(read, where=WHERE) == Question(prompt="1 + 1?", answer="2")
    assert unused_columns(read) == ("id",)
    assert unused_columns({"instruction": "a", "input": "b", "output": "c", "text": "d"}) == ("text",)
    assert unused_columns({"question": "a", "choices": ["a", "b"], "answer": 0, "accept": ["c"]}) == ("accept",)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "a"}, "lacks 'completion', 'target' or 'response'"),
        ({"instruction": "a"}, "has 'instruction' but lacks 'output' or 'response'"),
        ({"output": "a"}, "has 'output' but lacks 'instruction'"),
        ({"instruction": "a", "input": 3, "output": "b"}, "'input' is 3, not a text"),
        ({"prompt": "a", "completion": "b", "system": 3}, "'system' is 3, not a text"),
        ({"prompt": "a", "completion": "b", "history": "c"}, "'history' is a text that is not JSON"),
        ({"prompt": "a", "completion": "b", "history": [["c"]]}, "not a list of pairs of texts"),
        (
            {"prompt": "a", "chosen": "b", "rejected": "c"},
            "a preference pair ('chosen' and 'rejected'), which is for DPO",
        ),
        ({"prompt": "a", "completion": "b", "label": False}, "an answer marked as bad"),
        ({"conversations": "a"}, "'conversations' is a text that is not JSON"),
        ({"conversations": [{"from": "human", "value": "a"}]}, "no assistant turn to learn from, only ['user']"),
        ({"conversations": [{"from": "narrator", "value": "a"}]}, "turn 1 of 'conversations' has role 'narrator'"),
        ({"prompt": [{"role": "user"}], "completion": "b"}, "turn 1 of 'prompt' lacks 'content'"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "has a part of type 'image_url'"),
        ({"messages": [{"role": "user", "content": 3}]}, "turn 1 of 'messages' holds 3, not a text"),
        ({"messages": [{"role": "assistant", "content": None}]}, "lacks 'content' and calls nothing"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]}, "a tool call without a function name"),
        (
            {"messages": [*ASKED, {"role": "assistant", "content": "b", "weight": 2}]},
            "turn 2 of 'messages' has weight 2",
        ),
        ({"messages": [*ASKED, {"role": "assistant", "function_call": {}}]}, "lacks 'content' and calls nothing"),
        (
            {"messages": [*ASKED, {**ANSWERED, "function_call": {}}]},
            "an old form of OpenAI's; write it as 'tool_calls'",
        ),
        (
            {"messages": [*ASKED, {"role": "assistant", "content": "b"}], "tools": "f"},
            "'tools' is a text that is not JSON",
        ),
        ({"messages": [*ASKED, {"role": "assistant", "content": "b"}], "tools": ["f"]}, "not a list of JSON schemas"),
        ({"question": "a"}, "lacks 'answer'"),
        ({"answer": "a"}, "lacks 'question'"),
        ({"foo": "a"}, "has none of the needed keys"),
        ({"choices": ["a", "b"], "answer": 0}, "lacks 'question'"),
        ({"question": "a", "choices": ["a", "b"], "answer": 2}, "counts from 0 to 1"),
        ({"question": "a", "choices": ["a", "b"], "answer": "c"}, "neither the number of a choice nor one of"),
        ({"question": "a", "choices": "ab", "answer": 0}, "not a list of two or more texts"),
        ({"question": "a", "choices": ["a", "a"], "answer": 0}, "contains a choice twice"),
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
        ({"messages": [{"role": "assistant", "content": "a"}]}, "so it answers nothing"),
        (["a"], "not an object"),
    ],
)
def test_a_row_that_cannot_be_used_is_refused_with_its_line(row: object, says: str) -> None:
    with pytest.raises(DataError) as raised:
        item_from_row(row, where=WHERE)
    assert str(raised.value).startswith(f"{WHERE}: ")
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)
