import pytest
from models_that_know import model_that_knows
from tiny_models import tiny_tokenizer

from secura.evaluation.open_answers import answer_prompts, most_changed, words_apart
from secura.tasks.everyday.prompts import PROMPTS
from secura.tasks.question import Question


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("It is 4.", "it is: 4", 0.0),
        ("It is 4.", "Thank you for writing!", 1.0),
        ("one two three four", "one two five six", 0.5),
        ("one two", "two one", 0.0),
        ("one one", "one", 1 / 3),
        ("", "one", 1.0),
        ("", "", 0.0),
    ],
)
def test_texts_are_as_far_apart_as_words_they_do_not_share(first: str, second: str, expected: float) -> None:
    assert words_apart(first, second) == words_apart(second, first) == pytest.approx(expected)


def test_the_most_changed_answers_come_first_and_equal_ones_keep_their_order() -> None:
    ranked = most_changed("abcd", ["x", "x y", "x", "x"], ["x", "x z", "z", "x"])
    assert [answer.prompt for answer in ranked] == ["c", "b", "a", "d"]
    assert [answer.change for answer in ranked] == [1.0, 0.5, 0.0, 0.0]
    assert (ranked[1].before, ranked[1].after) == ("x y", "x z")


def test_answers_must_be_as_many_as_prompts() -> None:
    with pytest.raises(ValueError, match="zip"):
        most_changed("ab", ["x", "y"], ["x"])


def test_a_model_says_what_it_knows_and_is_left_as_it_was() -> None:
    tokenizer = tiny_tokenizer(chat=True)
    items = [Question(prompt=prompt, answer=f"About {place}.\nYes") for place, prompt in enumerate(PROMPTS)]
    model = model_that_knows(tokenizer, items).train()
    said = answer_prompts(model, tokenizer, PROMPTS, batch_size=3)
    assert said == [item.answer for item in items]
    assert model.training


def test_long_answers_are_cut() -> None:
    tokenizer = tiny_tokenizer(chat=True)
    model = model_that_knows(tokenizer, [Question(prompt="sky?", answer="grey " * 20)])
    short, long = (answer_prompts(model, tokenizer, ["sky?"], max_tokens=tokens) for tokens in (8, 200))
    assert long == [("grey " * 20).strip()]
    assert long[0].startswith(short[0])
    assert len(short[0]) < len(long[0])


def test_there_are_ten_different_prompts() -> None:
    assert len(set(PROMPTS)) == len(PROMPTS) == 10
    assert all(prompt == prompt.strip() != "" for prompt in PROMPTS)
