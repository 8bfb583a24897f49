"""What a row of training or retention data may look like, and what it becomes.

| row | becomes |
|---|---|
| `{"messages": [...]}` | a chat; the last assistant turn is the answer |
| `{"prompt", "completion"}`, `{"prompt", "target"}`, `{"question", "answer"}` | a free answer |
| `{"question", "choices", "answer"}` | multiple choice; `answer` counts from 0, or is one of `choices` |
| `{"text"}` | plain text, learned whole |

A row may also carry `family`, the group it is reported under; and one with a free answer `match`,
the rule by which answers are compared, and `accept`, a list of further right answers. Other keys
are left alone.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, get_args

from secura.errors import DataError
from secura.tasks.question import Item, Match, PlainText, Question

ACCEPTED_SHAPES = (
    "{messages}, {prompt, completion}, {prompt, target}, {question, answer}, {question, choices, answer} or {text}"
)
MATCHES: tuple[Match, ...] = get_args(Match)
"""Every rule that a row's `match` may name."""

_FREE_ANSWER_KEYS = (("prompt", "completion"), ("prompt", "target"), ("question", "answer"))


def item_from_row(row: object, *, where: str) -> Item:
    """Read one row.

    Args:
        row: what the line or the data set holds; anything but a mapping is refused.
        where: the file and line, to begin an error with.

    Raises:
        DataError: naming `where`, the missing or wrong key, and the shapes that are accepted.
    """
    if not isinstance(row, Mapping):
        raise DataError(f"{where}: holds {_shown(row)}, not an object; accepted are {ACCEPTED_SHAPES}.")
    family: dict[str, Any] = {} if row.get("family") is None else {"family": _text(row, "family", where)}
    if "messages" in row:
        return _with_rule(_from_chat(row["messages"], family, where), row, where)
    if "choices" in row:
        return _from_choices(row, family, where)
    for prompt_key, answer_key in _FREE_ANSWER_KEYS:
        if prompt_key in row and answer_key in row:
            prompt, answer = _prompt(row, prompt_key, where), _answer(row, answer_key, where)
            return _with_rule(Question(prompt=prompt, answer=answer, **family), row, where)
    if "text" in row:
        text = _text(row, "text", where)
        if not text.strip():
            raise DataError(f"{where}: 'text' is empty; remove the row.")
        return PlainText(text=text, **family)
    raise DataError(f"{where}: {_missing(row)}; accepted are {ACCEPTED_SHAPES}.")


def _from_chat(messages: object, family: dict[str, Any], where: str) -> Question:
    if not isinstance(messages, list) or not messages:
        raise DataError(f"{where}: 'messages' is {_shown(messages)}, not a list of turns.")
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            raise DataError(f"{where}: turn {number} of 'messages' lacks 'role' or 'content'.")
        if not isinstance(message["content"], str):
            raise DataError(f"{where}: turn {number} of 'messages' holds {_shown(message['content'])}, not a text.")
    roles = [message["role"] for message in messages]
    if "assistant" not in roles:
        raise DataError(f"{where}: 'messages' has no assistant turn to learn from, only {sorted(set(roles))}.")
    last = len(roles) - 1 - roles[::-1].index("assistant")
    turns, answer = messages[:last], messages[last]["content"]
    if not turns:
        raise DataError(f"{where}: the assistant's turn comes first, so there is nothing it answers.")
    if not answer.strip():
        raise DataError(f"{where}: the last assistant turn is empty; remove the row.")
    if [turn["role"] for turn in turns] == ["user"]:
        return Question(prompt=turns[0]["content"], answer=answer, **family)
    shown = "\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)
    return Question(prompt=shown, answer=answer, turns=tuple(dict(turn) for turn in turns), **family)


def _with_rule(question: Question, row: Mapping[str, Any], where: str) -> Question:
    """The question with the row's own rule for comparing answers, where it has one."""
    match, accept = row.get("match", "exact"), row.get("accept", [])
    if match not in MATCHES:
        near = get_close_matches(str(match), MATCHES, n=1, cutoff=0.0)[0]
        raise DataError(f"{where}: 'match' is {_shown(match)}; the nearest is {near!r}, all are {', '.join(MATCHES)}.")
    if not isinstance(accept, list) or not all(isinstance(each, str) and each.strip() for each in accept):
        raise DataError(f"{where}: 'accept' is {_shown(accept)}, not a list of texts.")
    ruled = replace(question, match=match, accept=tuple(each.strip() for each in accept))
    if match == "json":
        for answer in ruled.right_answers:
            try:
                json.loads(answer)
            except json.JSONDecodeError as problem:
                raise DataError(f"{where}: 'match' is json, but {_shown(answer)} is not ({problem.msg}).") from problem
    return ruled


def _from_choices(row: Mapping[str, Any], family: dict[str, Any], where: str) -> Question:
    for key in ("question", "answer"):
        if key not in row:
            raise DataError(f"{where}: has 'choices' but lacks '{key}'; accepted are {ACCEPTED_SHAPES}.")
    choices: Any = row["choices"]
    answer: Any = row["answer"]
    texts = isinstance(choices, list) and all(isinstance(each, str) for each in choices)
    if not texts or len(choices) < 2:
        raise DataError(f"{where}: 'choices' is {_shown(choices)}, not a list of two or more texts.")
    if isinstance(answer, int) and not isinstance(answer, bool):
        last = len(choices) - 1
        if not 0 <= answer <= last:
            raise DataError(f"{where}: 'answer' is {answer}, but 'choices' counts from 0 to {last}.")
        answer = choices[answer]
    if not isinstance(answer, str) or answer not in choices:
        raise DataError(f"{where}: 'answer' is {_shown(answer)}, neither a number nor one of {choices}.")
    if len(set(choices)) < len(choices):
        raise DataError(f"{where}: 'choices' {choices} repeat themselves.")
    return Question(prompt=_prompt(row, "question", where), answer=answer, choices=tuple(choices), **family)


def _prompt(row: Mapping[str, Any], key: str, where: str) -> str:
    prompt = _text(row, key, where)
    if not prompt.strip():
        raise DataError(f"{where}: '{key}' is empty; remove the row, or use {{text}} for plain text.")
    return prompt


def _answer(row: Mapping[str, Any], key: str, where: str) -> str:
    answer = _text(row, key, where)
    if not answer.strip():
        raise DataError(f"{where}: '{key}' is empty, so there is nothing to learn; remove the row.")
    return answer.strip()


def _text(row: Mapping[str, Any], key: str, where: str) -> str:
    value = row[key]
    if not isinstance(value, str):
        raise DataError(f"{where}: '{key}' is {_shown(value)}, not a text.")
    return value


def _missing(row: Mapping[str, Any]) -> str:
    """Which key is missing, where the others point to one shape."""
    if "prompt" in row:
        return "has 'prompt' but lacks 'completion' or 'target'"
    if "question" in row:
        return "has 'question' but lacks 'answer'"
    for prompt_key, answer_key in _FREE_ANSWER_KEYS:
        if answer_key in row:
            return f"has '{answer_key}' but lacks '{prompt_key}'"
    return f"has none of the needed keys, only {sorted(map(str, row))}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
