import pytest
import torch
from tiny_models import tiny_tokenizer
from torch.testing import assert_close

from secura.errors import DataError
from secura.tasks.data_rows import item_from_row
from secura.tasks.question import PlainText, Question
from secura.training.examples import IGNORED, Example, PadToLongest, example_from_item, fit_to_context


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


def test_of_a_longer_chat_the_last_assistant_turn_alone_is_learned() -> None:
    tokenizer = tiny_tokenizer(chat=True)
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Sky?"},
        {"role": "assistant", "content": "blue"},
    ]
    example = example_from_item(tokenizer, item_from_row({"messages": messages}, where="line 1"))
    assert tokenizer.decode(example.tokens[: example.learned_from]) == (
        "<|system|>Be short.<|end|>\n<|user|>Hi<|end|>\n<|assistant|>Yes?<|end|>\n<|user|>Sky?<|end|>\n<|assistant|>"
    )
    assert tokenizer.decode(example.tokens[example.learned_from :]) == "blue<|end|>"
