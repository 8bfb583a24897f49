"""What a model is given to begin a text from, for each kind of text that a bank has."""

from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase

from secura.errors import ConfigError
from secura.evaluation.causal_model import start_tokens
from secura.tasks.prompting import pad_token_of, token_ids

_CONTENT = "what7the7user7says"
"""Stands in a template where a user's words would."""
_DOCUMENT_SEPARATORS = ("<|endoftext|>", "<|end_of_text|>", "<|begin_of_text|>")
_EVERY_EIGHTH = 8
"""One text in so many has a tool, where the template knows tools."""
_TOOL = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "Search for a text.",
        "parameters": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
    },
}


@dataclass(frozen=True, kw_only=True)
class Openings:
    """What a tokenizer's texts begin with."""

    tokenizer: PreTrainedTokenizerBase
    """Its chat template tells how."""
    _templates: dict[str, tuple[list[int], list[int]]] = field(default_factory=dict)

    @property
    def has_chat(self) -> bool:
        """Whether there is a chat template."""
        return bool(self.tokenizer.chat_template)

    def plain(self) -> list[int]:
        """The beginning of a text: the beginning-of-sequence token, or what parted texts in pretraining.

        Where the first of these opens each turn of a chat, as in ChatML, it would begin no text but a turn.
        """
        start = start_tokens(self.tokenizer) or [pad_token_of(self.tokenizer)]
        if not self.has_chat:
            return start
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        if token_ids(self.tokenizer, self._templated(turns, 0, prompt=False), special=False).count(start[0]) <= 1:
            return start
        known = self.tokenizer.get_vocab()
        separators = [known[token] for token in _DOCUMENT_SEPARATORS if token in known]
        return separators[:1] or start

    def open_turn(self, number: int) -> list[int]:
        """Up to where a user would speak."""
        return list(self._around_content(number)[0])

    def after_turn(self, number: int) -> list[int]:
        """From the end of what the user said to where the model answers."""
        return list(self._around_content(number)[1])

    def _around_content(self, number: int) -> tuple[list[int], list[int]]:
        text = self._templated([{"role": "user", "content": _CONTENT}], number)
        if text not in self._templates:
            before, found, after = text.partition(_CONTENT)
            if not found:
                raise ConfigError("the tokenizer's chat template does not show the user's text.")
            self._templates[text] = (
                token_ids(self.tokenizer, before, special=False),
                token_ids(self.tokenizer, after, special=False),
            )
        return self._templates[text]

    def _templated(self, turns: list[dict[str, Any]], number: int, *, prompt: bool = True) -> str:
        """By the template in one of its modes: they take turns, so that a bank has some of each."""
        template = str(self.tokenizer.chat_template)
        modes: dict[str, Any] = {}
        if "enable_thinking" in template:
            modes["enable_thinking"] = number % 2 == 0
        if "tools" in template and number % _EVERY_EIGHTH == _EVERY_EIGHTH - 1:
            modes["tools"] = [_TOOL]
        return str(self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=prompt, **modes))
