"""Chats as people store them, and what a chat template is given of them.

| stored as | by |
|---|---|
| `messages` of `role` and `content` | OpenAI, TRL |
| `conversations` of `from` and `value`, or of `role` and `content` | ShareGPT, Vicuna |
| `prompt` and `completion`, both lists of messages | TRL |

TRL's own converter (`trl.maybe_convert_to_chatml`) renames the keys and leaves `human` and `gpt` as they
are, which no chat template knows; so both are renamed here, and no extra is needed for it.

A turn's content is a text, OpenAI's list of text parts, or null beside `tool_calls`. A call's arguments,
which OpenAI writes as JSON text, become the object that chat templates write. In objects, keys whose value
is null are left out: Arrow, and so every data set of the hub, gives each object of a column every key that
any of them has. An assistant turn of `weight` 0, OpenAI's too, is read and not learned.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from secura.errors import DataError
from secura.json_text import parsed_json

_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "observation": "tool",
    "function_response": "tool",
    "function": "tool",
}
"""ShareGPT's names, and what chat templates call them."""
_TEMPLATE_ROLES = ("system", "developer", "user", "assistant", "tool")
_CALL = "function_call"
"""ShareGPT's name of an assistant's turn that calls a function, and OpenAI's older name of such a call."""


def chat_messages(value: object, key: str, where: str) -> list[dict[str, Any]]:
    """The turns of a chat as a chat template takes them.

    Args:
        value: the column; a list, or its JSON text, as a table holds it.
        key: the column's name.
        where: the file and line, to begin an error with.

    Raises:
        DataError: naming `where`, the turn and what is wrong with it.
    """
    value = from_json(value, key, where) if isinstance(value, str) else value
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise DataError(f"{where}: '{key}' is {shown(value)}, not a list of turns.")
    return [_message(message, f"turn {number} of '{key}'", where) for number, message in enumerate(value, start=1)]


def tool_schemas(value: object, where: str) -> tuple[Mapping[str, Any], ...]:
    """The functions that a row's `tools` lists, as a list or its JSON text.

    Raises:
        DataError: if it is no list of schemas.
    """
    tools = from_json(value, "tools", where) if isinstance(value, str) and value.strip() else value
    if not tools:
        return ()
    if not isinstance(tools, Sequence) or isinstance(tools, str) or not all(isinstance(t, Mapping) for t in tools):
        raise DataError(f"{where}: 'tools' is {shown(tools)}, not a list of JSON schemas.")
    return tuple(_without_nulls(dict(tool)) for tool in tools)


def shown_as_text(message: Mapping[str, Any]) -> str:
    """A turn's content; what it calls, as JSON, where it says nothing."""
    if message["content"] or not message.get("tool_calls"):
        return str(message["content"])
    calls = [call.get("function", call) for call in message["tool_calls"]]
    return json.dumps(calls[0] if len(calls) == 1 else calls, ensure_ascii=False)


def from_json(text: str, key: str, where: str) -> Any:
    """The value of a column that holds JSON as text.

    Raises:
        DataError: if it is not JSON.
    """
    try:
        return parsed_json(text)
    except json.JSONDecodeError as problem:
        raise DataError(
            f"{where}: '{key}' is a text that is not JSON ({problem.msg} at character {problem.pos})."
        ) from problem


def shown(value: object) -> str:
    """A value as an error shows it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _message(message: object, turn: str, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise DataError(f"{where}: {turn} is {shown(message)}, not a message.")
    found = {str(key): value for key, value in message.items() if value is not None}
    role, content = found.pop("role", found.pop("from", None)), found.pop("content", found.pop("value", None))
    if role == _CALL:
        found["tool_calls"] = _calls_of_text(content, turn, where)
        role, content = "assistant", None
    calls = found.get("tool_calls")
    if not isinstance(role, str) or (content is None and not calls):
        lacks = "'role'" if not isinstance(role, str) else "'content' and calls nothing"
        raise DataError(f"{where}: {turn} lacks {lacks}; a turn needs 'role' and 'content', or 'tool_calls'.")
    if _CALL in found:
        raise DataError(f"{where}: {turn} has 'function_call', an old form of OpenAI's; write it as 'tool_calls'.")
    role = _ROLES.get(role, role)
    if role not in _TEMPLATE_ROLES:
        known = ", ".join((*_TEMPLATE_ROLES, *_ROLES))
        raise DataError(f"{where}: {turn} has role {role!r}; known are {known}.")
    kept: dict[str, Any] = {"role": role, "content": _content(content, turn, where)}
    if calls:
        kept["tool_calls"] = [_call(call, turn, where) for call in calls]
    if found.get("weight", 1) not in (0, 1):
        raise DataError(f"{where}: {turn} has weight {shown(found['weight'])}; give 0 (not learned) or 1.")
    return kept | {key: value for key, value in found.items() if key not in kept}


def _content(content: object, turn: str, where: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, Sequence):
        raise DataError(f"{where}: {turn} holds {shown(content)}, not a text.")
    texts = []
    for part in content:
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        text = part.get("text") if isinstance(part, Mapping) else part
        if kind not in ("text", "input_text", "output_text") or not isinstance(text, str):
            raise DataError(f"{where}: {turn} has a part of type {kind!r}; only text can be learned.")
        texts.append(text)
    return "".join(texts)


def _calls_of_text(content: object, turn: str, where: str) -> list[dict[str, Any]]:
    found = from_json(content, turn, where) if isinstance(content, str) else content
    calls = found if isinstance(found, list) else [found]
    return [{"type": "function", "function": call} for call in calls]


def _call(call: object, turn: str, where: str) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise DataError(f"{where}: {turn} has a tool call without a function name, {shown(call)}.")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        arguments = from_json(arguments or "{}", f"arguments of {function['name']}", where)
    else:
        arguments = _without_nulls(arguments or {})
    assert isinstance(call, Mapping)
    named = {"name": function["name"], "arguments": arguments}
    outer = {key: value for key, value in call.items() if key == "id" and value is not None}
    return {**outer, "type": "function", "function": named}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value
