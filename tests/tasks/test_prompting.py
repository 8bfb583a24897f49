import pytest
from tiny_models import tiny_tokenizer

from secura.tasks.prompting import answer_tokens, end_tokens, prompt_tokens

PROMPTS = ["What is the colour", "colour: ", "sky?\n", "sky?\n\n", "the  ", "", "?"]


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_prompt_and_answer_decode_to_the_text_and_no_answer_is_lost(prompt: str, chat: bool) -> None:
    tokenizer = tiny_tokenizer(chat=chat)
    answer = answer_tokens(tokenizer, prompt, "blue", end=False)
    assert answer
    whole = tokenizer.decode(prompt_tokens(tokenizer, prompt) + answer)
    if chat:
        assert whole == f"<|user|>{prompt}<|end|>\n<|assistant|>blue"
    else:
        stripped = prompt.rstrip(" ")
        assert whole == stripped + ("" if not stripped or stripped[-1].isspace() else " ") + "blue"


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_space_at_the_end_of_a_prompt_changes_nothing(prompt: str) -> None:
    tokenizer = tiny_tokenizer()
    assert prompt_tokens(tokenizer, prompt + " ") == prompt_tokens(tokenizer, prompt)
    bare, spaced = (answer_tokens(tokenizer, text, "blue", end=True) for text in (prompt, prompt + " "))
    assert bare == spaced


def test_an_answer_ends_as_the_template_closes_a_turn() -> None:
    assert tiny_tokenizer(chat=True).decode(end_tokens(tiny_tokenizer(chat=True))) == "<|end|>"
    assert tiny_tokenizer().decode(end_tokens(tiny_tokenizer())) == "<eos>"
