"""How a question becomes the tokens a model reads: the same in training and in scoring.

A tokenizer with a chat template gets the prompt as a user turn and the answer as the
assistant's, closed as the template closes a turn. Any other gets `prompt`, one space,
`answer`, as lm-evaluation-harness joins them; a prompt that ends in a line break is joined
as it is.

The prompt's tokens never depend on the answer, or a model would be trained on other tokens
than it is asked with. An answer that is a message, such as a tool call, is written by the template
alone, as what follows the prompt.
"""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from secura.errors import DataError
from secura.tasks.question import Asked, Chat

Message = Mapping[str, Any]


def prompt_text(tokenizer: PreTrainedTokenizerBase, prompt: Asked) -> str:
    """The text up to where the answer, or the space before it, begins."""
    if tokenizer.chat_template:
        return _templated(tokenizer, prompt, add_generation_prompt=True)
    if not isinstance(prompt, str):
        prompt = "\n".join(str(message["content"]) for message in _turns(prompt))
    # The space belongs to the answer: byte-level tokenizers know " Paris", hardly "Paris".
    return prompt.rstrip(" ")


def prompt_tokens(tokenizer: PreTrainedTokenizerBase, prompt: Asked) -> list[int]:
    """Tokens of the prompt, special tokens as the tokenizer's own convention wants them."""
    return _tokens(tokenizer, prompt_text(tokenizer, prompt))


def answer_tokens(tokenizer: PreTrainedTokenizerBase, prompt: Asked, answer: str | Message, *, end: bool) -> list[int]:
    """Tokens of the answer as it follows the prompt; with `end`, what ends the answer too.

    Prompt and answer are tokenized together and cut at the prompt's length, as
    lm-evaluation-harness does: a SentencePiece tokenizer would give an answer that stands
    alone another first token. Where the two merge across the cut, such as after a prompt
    that ends in two line breaks, the answer is tokenized apart, so that none of it is lost.

    Raises:
        DataError: if the answer is a message that the tokenizer has no template for.
    """
    text = prompt_text(tokenizer, prompt)
    separator = "" if tokenizer.chat_template or not text or text[-1].isspace() else " "
    if not isinstance(answer, str):
        answer = _written_turn(tokenizer, prompt, answer)
    tokens = following_tokens(tokenizer, text, separator + answer)
    return tokens + (end_tokens(tokenizer) if end else [])


def following_tokens(tokenizer: PreTrainedTokenizerBase, before: str, text: str) -> list[int]:
    """Tokens of `text` where it follows `before`: cut from both together, or apart where the two merge."""
    first = _tokens(tokenizer, before)
    whole = _tokens(tokenizer, before + text)
    return whole[len(first) :] if whole[: len(first)] == first else token_ids(tokenizer, text, special=False)


def end_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end an answer: how the chat template closes a turn, or end-of-sequence.

    The two differ for some models: Gemma's turns end in `<end_of_turn>`, while its
    end-of-sequence token is another one.
    """
    closing = turn_closing(tokenizer)
    if closing:
        return token_ids(tokenizer, closing, special=False)
    return [token for token in [_one_id(tokenizer.eos_token_id)] if token is not None]


def turn_closing(tokenizer: PreTrainedTokenizerBase) -> str:
    """What the chat template writes after an assistant's turn, white space apart; empty where it writes nothing."""
    if not tokenizer.chat_template:
        return ""
    asked = _turns("?")
    answered = [*asked, {"role": "assistant", "content": "yes"}]
    before = _templated(tokenizer, asked, add_generation_prompt=True) + "yes"
    whole = _templated(tokenizer, answered, add_generation_prompt=False)
    return whole.removeprefix(before).rstrip() if whole.startswith(before) else ""


def pad_token_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token to pad with: end-of-sequence, since padding is masked wherever it is used.

    A padding token that was added to a tokenizer later often lies beyond the model's embeddings.
    """
    own = [_one_id(tokenizer.eos_token_id), _one_id(tokenizer.pad_token_id)]
    return next((token for token in own if token is not None), 0)


def token_ids(tokenizer: PreTrainedTokenizerBase, text: str, *, special: bool) -> list[int]:
    """Tokens of a text; with `special`, the tokenizer's own beginning and end as well."""
    ids: Any = tokenizer(text, add_special_tokens=special)["input_ids"]
    return list(ids)


def _one_id(token: Any) -> int | None:
    return token if token is None else int(token)


def _turns(prompt: Asked) -> list[dict[str, Any]]:
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    turns = prompt.turns if isinstance(prompt, Chat) else prompt
    # Which turns are learned is no matter of the template.
    return [{key: value for key, value in message.items() if key != "weight"} for message in turns]


def _templated(tokenizer: PreTrainedTokenizerBase, prompt: Asked, *, add_generation_prompt: bool) -> str:
    options: dict[str, Any] = {"tools": list(prompt.tools)} if isinstance(prompt, Chat) and prompt.tools else {}
    return str(
        tokenizer.apply_chat_template(
            _turns(prompt), tokenize=False, add_generation_prompt=add_generation_prompt, **options
        )
    )


def _written_turn(tokenizer: PreTrainedTokenizerBase, prompt: Asked, answer: Message) -> str:
    """What the chat template makes of an assistant's message, up to where it closes the turn."""
    called = ", ".join(key for key in answer if key not in ("role", "content"))
    if not tokenizer.chat_template:
        raise DataError(f"an answer with {called} needs a tokenizer with a chat template, and this one has none.")
    chat = Chat(turns=(*_turns(prompt), answer), tools=prompt.tools if isinstance(prompt, Chat) else ())
    before = prompt_text(tokenizer, prompt)
    whole = _templated(tokenizer, chat, add_generation_prompt=False)
    written = whole.removeprefix(before).rstrip().removesuffix(turn_closing(tokenizer)) if whole != before else ""
    if not whole.startswith(before) or not written.strip():
        raise DataError(f"the tokenizer's chat template does not write an answer with {called} after its prompt.")
    return written


def _tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    # A chat template writes its own beginning-of-sequence token.
    tokens = token_ids(tokenizer, text, special=not tokenizer.chat_template)
    if not tokenizer.chat_template and tokens and tokens[-1] == tokenizer.eos_token_id and text:
        tokens.pop()  # some tokenizers end every text, even a prompt that an answer is to follow
    return tokens
