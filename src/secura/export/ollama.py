"""A Modelfile for Ollama, whose chat template is checked against the tokenizer's own.

Ollama writes chats by templates of Go and recognises some of Jinja's by heart. Here the
template is taken apart into what stands before and after each role's words, put together again,
and compared with what the tokenizer writes; one that cannot be put together is refused.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from secura.errors import ConfigError

_ROLES = ("system", "user", "assistant")
_MARKS = {role: f"\N{LATIN SMALL LETTER A}{role}\N{LATIN SMALL LETTER Z}0words" for role in _ROLES}
_CHATS: tuple[tuple[str, ...], ...] = (
    ("user",),
    ("user", "assistant", "user"),
    ("system", "user"),
    ("system", "user", "assistant", "user", "assistant", "user"),
)
"""Chats that are compared, by their roles."""

Message = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class ChatParts:
    """A chat template as what stands around each message."""

    around: Mapping[str, tuple[str, str]]
    """Before and after the words of each role."""
    opening: str
    """What the answer begins after."""
    default_system: str | None
    """The system's words where a chat brings none; None where nothing is written then."""

    def written(self, messages: Sequence[Message]) -> str:
        """The chat as Ollama will write it."""
        chat = list(messages)
        if self.default_system is not None and chat[0]["role"] != "system":
            chat.insert(0, {"role": "system", "content": self.default_system})
        inside = [self.around[one["role"]][0] + one["content"] + self.around[one["role"]][1] for one in chat]
        return "".join(inside) + self.opening


def chat_parts(tokenizer: PreTrainedTokenizerBase) -> ChatParts | None:
    """Take a chat template apart; None where the tokenizer has none.

    Raises:
        ConfigError: if it does more than stand around each message.
    """
    if not tokenizer.chat_template:
        return None
    bos = _own_beginning(tokenizer)

    def written(messages: Sequence[Message], *, opening: bool = True) -> str:
        text: Any = tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=opening
        )
        return str(text).removeprefix(bos)

    try:
        parts = _taken_apart(written)
        for roles in _CHATS:
            if "system" in roles and "system" not in parts.around:
                continue
            messages = [{"role": role, "content": f"words {at} of {role}."} for at, role in enumerate(roles)]
            if parts.written(messages) != written(messages):
                raise ValueError(f"a chat of {', '.join(roles)} would be written in another way")
    except (ValueError, KeyError, IndexError, TemplateError) as problem:
        raise ConfigError(
            f"the chat template cannot be written for Ollama ({problem}); export --to gguf, whose file carries the "
            "template itself, and serve that with llama.cpp."
        ) from problem
    return parts


def _taken_apart(written: Any) -> ChatParts:
    user = {"role": "user", "content": _MARKS["user"]}
    assistant = {"role": "assistant", "content": _MARKS["assistant"]}
    system = {"role": "system", "content": _MARKS["system"]}
    opening = written([user])[len(written([user], opening=False)) :]
    try:
        with_system = written([system, user], opening=False)
    except TemplateError:
        with_system = None
    alone = written([user], opening=False)
    after = written([user, user], opening=False)[len(alone) :] if _takes_two(written, user) else None
    turns = written([user, assistant, user], opening=False)
    first, rest = turns.split(_MARKS["assistant"])
    head, between = first.split(_MARKS["user"])
    tail, end = rest.split(_MARKS["user"])
    # What stands after a user's words, and what before an assistant's, only together are `between`.
    before_assistant = opening if between.endswith(opening) else ""
    after_user = between.removesuffix(before_assistant)
    if not end.startswith(after_user) and end != after_user:
        raise ValueError("a turn is closed in another way at the end")
    before_user = after[: after.index(_MARKS["user"])] if after is not None else _common_end(head, tail)
    around = {
        "user": (before_user, after_user),
        "assistant": (before_assistant, tail.removesuffix(before_user)),
    }
    default_system = None
    if with_system is not None:
        before, rest = with_system.split(_MARKS["system"])
        around["system"] = (before, rest[: rest.index(before_user + _MARKS["user"])])
        extra = head.removesuffix(before_user)
        if extra:
            inner = extra.removeprefix(before).removesuffix(around["system"][1])
            default_system = inner
    return ChatParts(around=around, opening=opening, default_system=default_system)


def _takes_two(written: Any, user: Message) -> bool:
    try:
        return written([user, user], opening=False).count(_MARKS["user"]) == 2
    except TemplateError:
        return False


def _common_end(first: str, second: str) -> str:
    length = 0
    while length < min(len(first), len(second)) and first[-1 - length] == second[-1 - length]:
        length += 1
    return first[len(first) - length :]


def _own_beginning(tokenizer: PreTrainedTokenizerBase) -> str:
    """The beginning-of-sequence token where Ollama writes it by itself, as the file tells it to."""
    alone: Any = tokenizer("a")["input_ids"]
    bare: Any = tokenizer("a", add_special_tokens=False)["input_ids"]
    puts_it = len(alone) > len(bare) and alone[0] == tokenizer.bos_token_id
    return str(tokenizer.bos_token) if puts_it else ""


def modelfile(gguf: str, parts: ChatParts | None, stops: Sequence[str]) -> str:
    """The text of a Modelfile.

    Args:
        gguf: name of the GGUF file beside it.
        parts: of the chat template; None for a model that only continues texts.
        stops: texts that end an answer.
    """
    lines = [f"FROM ./{gguf}"]
    if parts is None:
        lines.append('TEMPLATE """{{ .Prompt }}"""')
    else:
        roles = [role for role in _ROLES if role in parts.around]
        cases = [
            f"{{{{ {'if' if at == 0 else 'else if'} eq .Role {json.dumps(role)} }}}}{before}{{{{ .Content }}}}{after}"
            for at, role in enumerate(roles)
            for before, after in [parts.around[role]]
        ]
        template = "{{ range .Messages }}" + "".join(cases) + "{{ end }}{{ end }}" + parts.opening
        if '"""' in template:
            raise ConfigError("the chat template holds three quotes in a row, which end a template in a Modelfile.")
        lines.append(f'TEMPLATE """{template}"""')
        if parts.default_system is not None:
            lines.append(f'SYSTEM """{parts.default_system}"""')
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops]
    return "\n".join(lines) + "\n"
