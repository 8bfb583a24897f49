import pytest
import torch
from tiny_models import tiny_tokenizer
from torch.testing import assert_close

from secura.errors import DataError
from secura.tasks.data_rows import item_from_row
from secura.tasks.prompting import prompt_tokens
from secura.tasks.question import Item, PlainText, Question
from secura.training.examples import (
    IGNORED,
    Example,
    PadToLongest,
    example_from_item,
    example_from_labels,
    fit_to_context,
    learned_turns,
)


@pytest.mark.parametrize("chat", [False, True])
def test_the_loss_falls_on_the_answer_and_its_end_alone(chat: bool) -> None:
    tokenizer = tiny_tokenizer(chat=chat)
    example = example_from_item(tokenizer, Question(prompt="What is the sky?", answer="blue"))
    learned = [token for token in example.labels if token != IGNORED]
    assert tokenizer.decode(learned) == ("blue<|end|>" if chat else " blue<eos>")
    assert example.labels[: example.learned_from] == [IGNORED] * example.learned_from


def test_all_of_a_plain_text_is_learned() -> None:
    tokenizer = tiny_tokenizer()
    example = example_from_item(tokenizer, PlainText(text="the sky"))
    assert tokenizer.decode(example.labels) == "the sky<eos>"


def test_turns_that_the_template_refuses_are_a_data_error() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(DataError, match="roles must alternate"):
        example_from_item(tokenizer, Question(prompt="a", answer="b"))


EXAMPLES = [
    Example(tokens=[1, 2, 3], learned_from=2),
    Example(tokens=[1, 2, 3, 4, 5, 6], learned_from=4),
    Example(tokens=[1, 2, 3, 4, 5, 6, 7, 8], learned_from=1),
]


def test_rows_longer_than_the_context_are_counted_and_refused_with_the_way_out() -> None:
    with pytest.raises(DataError) as raised:
        fit_to_context(EXAMPLES, max_tokens=5, too_long="refuse", source="rows.jsonl")
    for part in ("rows.jsonl", "2 of 3", "5", "longest 8", "row 2", "data.too_long"):
        assert part in str(raised.value)


def test_rows_longer_than_the_context_are_dropped_on_request() -> None:
    fitted = fit_to_context(EXAMPLES, max_tokens=5, too_long="drop", source="rows.jsonl")
    assert (fitted.examples, fitted.too_long, fitted.longest) == (EXAMPLES[:1], 2, 8)
    with pytest.raises(DataError, match="all 3 rows"):
        fit_to_context(EXAMPLES, max_tokens=2, too_long="drop", source="rows.jsonl")


def test_truncation_cuts_the_prompt_first_and_the_answer_only_if_it_must() -> None:
    fitted = fit_to_context(EXAMPLES, max_tokens=5, too_long="truncate", source="rows.jsonl")
    assert fitted.examples == [
        EXAMPLES[0],
        Example(tokens=[2, 3, 4, 5, 6], learned_from=3),
        Example(tokens=[1, 2, 3, 4, 5], learned_from=1),
    ]


def test_a_batch_is_padded_on_the_right_and_padding_is_never_learned() -> None:
    batch = PadToLongest(pad_token=9)([Example(tokens=[1, 2, 3], learned_from=2), Example(tokens=[4], learned_from=0)])
    assert_close(batch["input_ids"], torch.tensor([[1, 2, 3], [4, 9, 9]]))
    assert_close(batch["attention_mask"], torch.tensor([[1, 1, 1], [1, 0, 0]]))
    assert_close(batch["labels"], torch.tensor([[IGNORED, IGNORED, 3], [4, IGNORED, IGNORED]]))


SKY = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Yes?"},
    {"role": "user", "content": "Sky?"},
    {"role": "assistant", "content": "blue"},
]


def _item(messages: list[dict], **row: object) -> Item:
    return item_from_row({"messages": messages, **row}, where="line 1")


def test_of_a_longer_chat_the_last_assistant_turn_alone_is_learned_on_request() -> None:
    tokenizer = tiny_tokenizer(chat=True)
    example = example_from_item(tokenizer, _item(SKY), turns="last")
    assert tokenizer.decode(example.tokens[: example.learned_from]) == (
        "<|system|>Be short.<|end|>\n<|user|>Hi<|end|>\n<|assistant|>Yes?<|end|>\n<|user|>Sky?<|end|>\n<|assistant|>"
    )
    assert tokenizer.decode(example.tokens[example.learned_from :]) == "blue<|end|>"


def _learned_parts(example: Example) -> list[str]:
    tokenizer, parts, open_part = tiny_tokenizer(), [], False
    for token, label in zip(example.tokens, example.labels, strict=True):
        if label != IGNORED:
            parts = [*parts[:-1], [*parts[-1], token]] if open_part else [*parts, [token]]
        open_part = label != IGNORED
    return [str(tokenizer.decode(part)) for part in parts]


def test_every_assistant_turn_of_a_chat_is_learned_with_what_closes_it() -> None:
    tokenizer = tiny_tokenizer(chat=True)
    example = example_from_item(tokenizer, _item(SKY), turns="all")
    assert _learned_parts(example) == ["Yes?<|end|>", "blue<|end|>"]
    last = example_from_item(tokenizer, _item(SKY), turns="last")
    assert example.tokens == last.tokens
    assert example.tokens[: last.learned_from] == prompt_tokens(tokenizer, SKY[:-1])
    assert learned_turns(_item(SKY)) == 2


def test_the_mask_is_the_one_that_transformers_makes_of_generation_markers() -> None:
    tokenizer = tiny_tokenizer(chat=True)
    example = example_from_item(tokenizer, _item(SKY), turns="all")
    tokenizer.chat_template = (
        "{% for message in messages %}<|{{ message.role }}|>{% if message.role == 'assistant' %}"
        "{% generation %}{{ message.content }}<|end|>{% endgeneration %}{% else %}{{ message.content }}<|end|>"
        "{% endif %}{{ '\n' }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    by_markers = tokenizer.apply_chat_template(SKY, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    tokens, mask = (by_markers[key][: len(example.tokens)] for key in ("input_ids", "assistant_masks"))
    assert example.tokens == tokens  # but for the line break after the last turn, which nobody asks for
    assert [label != IGNORED for label in example.labels] == [bool(each) for each in mask]


def test_a_turn_of_weight_0_is_read_and_not_learned() -> None:
    messages = [SKY[1], {**SKY[2], "weight": 0}, *SKY[3:]]
    assert _learned_parts(example_from_item(tiny_tokenizer(chat=True), _item(messages), turns="all")) == ["blue<|end|>"]


def test_without_a_chat_template_the_last_turn_alone_is_learned() -> None:
    assert _learned_parts(example_from_item(tiny_tokenizer(), _item(SKY), turns="all")) == [" blue<eos>"]


TOOL_TEMPLATE = (
    "{% if tools %}<|system|>{{ tools | tojson }}<|end|>\n{% endif %}"
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}"
    "{% for call in message.tool_calls or [] %}CALL {{ call.function.name }} {{ call.function.arguments | tojson }}"
    "{% endfor %}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CALL = {"function": {"name": "sky", "arguments": '{"at": 9}'}}
TOOLS = [{"type": "function", "function": {"name": "sky"}}]
CALLED = [SKY[1], {"role": "assistant", "content": None, "tool_calls": [CALL]}]


def test_tools_reach_the_template_and_a_call_is_a_turn_that_is_learned() -> None:
    tokenizer = tiny_tokenizer(chat=True)
    tokenizer.chat_template = TOOL_TEMPLATE
    turns = [*CALLED, {"role": "tool", "content": "blue"}, {"role": "assistant", "content": "It is blue."}]
    example = example_from_item(tokenizer, _item(turns, tools=TOOLS), turns="all")
    assert _learned_parts(example) == ['CALL sky {"at": 9}<|end|>', "It is blue.<|end|>"]
    assert str(tokenizer.decode(example.tokens)).startswith(
        '<|system|>[{"type": "function", "function": {"name": "sky"}}]'
    )
    alone = example_from_item(tokenizer, _item(CALLED, tools=TOOLS))
    assert _learned_parts(alone) == ['CALL sky {"at": 9}<|end|>']


def test_a_call_that_the_template_does_not_write_is_refused() -> None:
    with pytest.raises(DataError, match="does not write an answer with tool_calls"):
        example_from_item(tiny_tokenizer(chat=True), _item(CALLED, tools=TOOLS))
    with pytest.raises(DataError, match="needs a tokenizer with a chat template"):
        example_from_item(tiny_tokenizer(), _item(CALLED, tools=TOOLS))


def test_a_template_that_ends_a_turn_with_the_end_of_sequence_is_learned_from() -> None:
    tokenizer = tiny_tokenizer(chat=True)
    tokenizer.chat_template = (
        "{% for message in messages %}{% if message.role == 'user' %}<|user|> {{ message.content }} <|assistant|>"
        "{% elif message.role == 'assistant' %} {{ message.content }} <eos>{% endif %}{% endfor %}"
    )
    assert _learned_parts(example_from_item(tokenizer, _item(SKY), turns="all")) == [" Yes? <eos>", "blue<eos>"]


def test_a_template_that_writes_earlier_turns_otherwise_is_refused_with_the_way_out() -> None:
    tokenizer = tiny_tokenizer(chat=True)
    assert tokenizer.chat_template is not None
    tokenizer.chat_template = tokenizer.chat_template.replace("<|assistant|>", "<|assistant|>think")
    with pytest.raises(DataError, match=r"assistant turn 1 as it asks for it \('Yes\?'\).*set data.turns to last"):
        example_from_item(tokenizer, _item(SKY), turns="all")


def test_labels_make_the_example_that_they_are_of_and_truncation_keeps_them() -> None:
    example = example_from_labels([1, 2, 3, 4, 5, 6], [IGNORED, 2, IGNORED, IGNORED, 5, IGNORED])
    assert (example.learned_from, example.left_out, example.learned_tokens) == (1, ((2, 4), (5, 6)), 2)
    assert example.labels == [IGNORED, 2, IGNORED, IGNORED, 5, IGNORED]
    assert example_from_labels([1, 2], [IGNORED, IGNORED]).labels == [IGNORED, IGNORED]
    (cut,) = fit_to_context([example], max_tokens=4, too_long="truncate", source="rows").examples
    assert (cut.tokens, cut.labels) == ([1, 2, 3, 4], [IGNORED, 2, IGNORED, IGNORED])
