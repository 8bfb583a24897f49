"""What a row of training or retention data may look like, and what it becomes.

| row | becomes |
|---|---|
| `{"messages": [...]}`, `{"conversations": [...]}` | a chat; the last assistant turn is the answer |
| `{"prompt": [...], "completion": [...]}`, lists of messages | a chat, of which the completion is learned |
| `{"prompt"` or `"question"` or `"instruction"`, an answer`}` | a free answer; see `_PAIRS` |
| `{"question", "choices", "answer"}` | multiple choice; `answer` counts from 0, or is one of `choices` |
| `{"text"}` | plain text, learned whole |

A row may also carry `family`, the group it is reported under; and one with a free answer `match`,
the rule by which answers are compared, `accept`, a list of further right answers, `system`, what is
said before all else, and `history`, earlier turns in pairs. An instruction may have an `input` or
`context`, put after it; a chat `tools`, which its template shows. `unused_columns` names the rest.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from typing import Any, get_args

from secura.errors import DataError
from secura.json_text import parsed_json
from secura.tasks.chat_rows import chat_messages, from_json, shown, shown_as_text, tool_schemas
from secura.tasks.question import Item, Match, PlainText, Question

ACCEPTED_SHAPES = (
    "{messages}, {conversations}, {prompt, completion}, {prompt, target}, {prompt, response}, {question, answer}, "
    "{instruction, input, output}, {question, choices, answer} or {text}"
)
MATCHES: tuple[Match, ...] = get_args(Match)
"""Every rule that a row's `match` may name."""

_PAIRS = (
    ("prompt", "completion"),
    ("prompt", "target"),
    ("prompt", "response"),
    ("question", "answer"),
    ("instruction", "output"),
    ("instruction", "response"),
)
"""What is asked and what is answered."""
_CHATS = ("messages", "conversations")
_SYSTEM, _INPUT = ("system", "system_prompt"), ("input", "context")

_MORE_THAN_TEXT = ("tool_calls", "reasoning_content", "reasoning", "thinking")
"""Keys of an assistant's message beside which its content is not all that it says."""

KNOWN_COLUMNS = tuple(
    dict.fromkeys(
        (
            *_CHATS,
            *(column for pair in _PAIRS for column in pair),
            *_INPUT,
            *_SYSTEM,
            *("history", "tools", "choices", "text", "family", "match", "accept"),
        )
    )
)
"""Every column that a row may have, by the name that `data.columns` maps another to."""


@dataclass(frozen=True, kw_only=True)
class _Shape:
    """One way to write a row."""

    read: Callable[[Mapping[str, Any], str], Item]
    """The item, by the row and its place."""
    columns: tuple[str, ...]
    """What is read, those that may be missing included."""


def item_from_row(row: object, *, where: str) -> Item:
    """Read one row.

    Args:
        row: what the line or the data set holds; anything but a mapping is refused.
        where: the file and line, to begin an error with.

    Raises:
        DataError: naming `where`, the missing or wrong key, and the shapes that are accepted.
    """
    if not isinstance(row, Mapping):
        raise DataError(f"{where}: holds {shown(row)}, not an object; accepted are {ACCEPTED_SHAPES}.")
    _refuse_preferences(row, where)
    shape = _shape_of(row)
    if shape is None:
        raise DataError(f"{where}: {_missing(row)}; accepted are {ACCEPTED_SHAPES}.")
    return shape.read(row, where)


def unused_columns(row: object) -> tuple[str, ...]:
    """The columns of a readable row that hold something and say nothing to `item_from_row`."""
    shape = _shape_of(row) if isinstance(row, Mapping) else None
    if shape is None or not isinstance(row, Mapping):
        return ()
    return tuple(str(key) for key, value in row.items() if value is not None and key not in shape.columns)


def renamed(row: object, columns: Mapping[str, str]) -> object:
    """The row with `columns`, of other names, under the names they are read by.

    Args:
        row: as it is stored.
        columns: the stored name of each column, by one of `KNOWN_COLUMNS`.
    """
    if not columns or not isinstance(row, Mapping):
        return row
    moved = {ours: row[theirs] for ours, theirs in columns.items() if theirs in row}
    return {key: value for key, value in row.items() if key not in columns.values()} | moved


def _refuse_preferences(row: Mapping[str, Any], where: str) -> None:
    """Refuse rows that say which of two answers is better: learned as answers, they would teach the worse one too."""
    if "chosen" in row and "rejected" in row:
        raise DataError(
            f"{where}: holds a preference pair ('chosen' and 'rejected'), which is for DPO; secura can only learn "
            "answers, not train against 'rejected' ones. Train on it with TRL's DPOTrainer, or learn only the chosen "
            "answers with --set data.columns.completion=chosen, or data.columns.messages=chosen where they are chats."
        )
    if "completion" in row and isinstance(row.get("label"), bool):
        raise DataError(
            f"{where}: holds an answer marked as {'good' if row['label'] else 'bad'} ('completion' and 'label'), which "
            "is for KTO; secura would learn the bad answers too. Keep only the good ones, without 'label'."
        )


def _shape_of(row: Mapping[str, Any]) -> _Shape | None:
    always, ruled = ("family",), ("match", "accept", "family")
    for chat in _CHATS:
        if row.get(chat) is not None:
            own = (chat, "tools", *_SYSTEM, *ruled)
            return _Shape(read=partial(_from_chat, key=chat), columns=own)
    if row.get("choices") is not None:
        return _Shape(read=_from_choices, columns=("question", "choices", "answer", *always))
    for asked, answered in _PAIRS:
        if row.get(asked) is None or row.get(answered) is None:
            continue
        if isinstance(row[asked], list) or isinstance(row[answered], list):
            own = (asked, answered, "tools", *_SYSTEM, *ruled)
            return _Shape(read=partial(_from_two_chats, asked=asked, answered=answered), columns=own)
        given = _INPUT if asked == "instruction" else ()
        own = (asked, answered, *given, *_SYSTEM, "history", *ruled)
        return _Shape(read=partial(_from_pair, asked=asked, answered=answered), columns=own)
    return _Shape(read=_from_text, columns=("text", *always)) if row.get("text") is not None else None


def _from_text(row: Mapping[str, Any], where: str) -> PlainText:
    text = _text(row, "text", where)
    if not text.strip():
        raise DataError(f"{where}: 'text' is empty; remove the row.")
    return PlainText(text=text, **_family(row, where))


def _from_pair(row: Mapping[str, Any], where: str, *, asked: str, answered: str) -> Question:
    prompt, answer = _prompt(row, asked, where), _answer(row, answered, where)
    if asked == "instruction":
        given = [_text(row, key, where) for key in _INPUT if row.get(key) is not None]
        prompt = "\n\n".join(part for part in (prompt, *given) if part.strip())
    turns = [*_system_turn(row, where), *_history(row, where)]
    question = Question(prompt=prompt, answer=answer, **_family(row, where))
    if turns:
        question = _asked_in([*turns, {"role": "user", "content": prompt}], question)
    return _with_rule(question, row, where)


def _from_chat(row: Mapping[str, Any], where: str, *, key: str) -> Question:
    return _question(chat_messages(row[key], key, where), row, key, where)


def _from_two_chats(row: Mapping[str, Any], where: str, *, asked: str, answered: str) -> Question:
    """A chat whose end alone is learned, as TRL writes it; either part may be a text."""
    before, after = (
        chat_messages(row[key], key, where)
        if isinstance(row[key], list)
        else [{"role": role, "content": _text(row, key, where)}]
        for key, role in ((asked, "user"), (answered, "assistant"))
    )
    if after[: len(before)] == before:  # some completions repeat the prompt
        after = after[len(before) :]
    read = [{**turn, "weight": 0} if turn["role"] == "assistant" else turn for turn in before]
    return _question([*read, *after], row, answered, where)


def _question(messages: list[dict[str, Any]], row: Mapping[str, Any], key: str, where: str) -> Question:
    """What a chat asks: the last assistant turn that is to be learned is the answer."""
    if messages[0]["role"] not in ("system", "developer"):
        messages = [*_system_turn(row, where), *messages]
    learned = [place for place, turn in enumerate(messages) if turn["role"] == "assistant" and turn.get("weight", 1)]
    if not learned:
        roles = sorted({turn["role"] for turn in messages})
        raise DataError(f"{where}: '{key}' has no assistant turn to learn from, only {roles}.")
    turns, last = messages[: learned[-1]], messages[learned[-1]]
    if not turns:
        raise DataError(
            f"{where}: the assistant's turn comes first, so it answers nothing; let a user turn come first."
        )
    if not last["content"].strip() and not last.get("tool_calls"):
        raise DataError(f"{where}: the last assistant turn is empty; remove the row.")
    tools = tool_schemas(row.get("tools"), where)
    is_message = any(last.get(key) for key in _MORE_THAN_TEXT)
    question = Question(
        prompt=shown_as_text(turns[0]),
        answer=shown_as_text(last),
        tools=tools,
        answer_turn={name: value for name, value in last.items() if name != "weight"} if is_message else None,
        **_family(row, where),
    )
    if [turn["role"] for turn in turns] != ["user"] or tools:
        question = _asked_in(turns, question)
    return _with_rule(question, row, where)


def _asked_in(turns: Sequence[Mapping[str, Any]], question: Question) -> Question:
    prompt = "\n".join(f"{turn['role']}: {shown_as_text(turn)}" for turn in turns)
    return replace(question, prompt=prompt, turns=tuple(turns))


def _system_turn(row: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    said = [_text(row, key, where) for key in _SYSTEM if row.get(key) is not None]
    return [{"role": "system", "content": text} for text in said if text.strip()][:1]


def _history(row: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    history = row.get("history")
    history = from_json(history, "history", where) if isinstance(history, str) and history.strip() else history
    if not history:
        return []
    if not isinstance(history, list) or not all(_is_pair(pair) for pair in history):
        raise DataError(f"{where}: 'history' is {shown(history)}, not a list of pairs of texts.")
    return [
        {"role": role, "content": text}
        for pair in history
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]


def _is_pair(pair: object) -> bool:
    return isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(text, str) for text in pair)


def _family(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    return {} if row.get("family") is None else {"family": _text(row, "family", where)}


def _with_rule(question: Question, row: Mapping[str, Any], where: str) -> Question:
    """The question with the row's own rule for comparing answers, where it has one."""
    match, accept = row.get("match", "exact"), row.get("accept", [])
    if match not in MATCHES:
        near = get_close_matches(str(match), MATCHES, n=1, cutoff=0.0)[0]
        raise DataError(f"{where}: 'match' is {shown(match)}; the nearest is {near!r}, all are {', '.join(MATCHES)}.")
    if not isinstance(accept, list) or not all(isinstance(each, str) and each.strip() for each in accept):
        raise DataError(f"{where}: 'accept' is {shown(accept)}, not a list of texts.")
    ruled = replace(question, match=match, accept=tuple(each.strip() for each in accept))
    if match == "json":
        for answer in ruled.right_answers:
            try:
                parsed_json(answer)
            except json.JSONDecodeError as problem:
                raise DataError(f"{where}: 'match' is json, but {shown(answer)} is not ({problem.msg}).") from problem
    return ruled


def _from_choices(row: Mapping[str, Any], where: str) -> Question:
    for key in ("question", "answer"):
        if key not in row:
            raise DataError(f"{where}: has 'choices' but lacks '{key}'; accepted are {ACCEPTED_SHAPES}.")
    choices: Any = row["choices"]
    answer: Any = row["answer"]
    if isinstance(choices, str) and choices.lstrip()[:1] == "[":  # as a table holds a list
        choices = from_json(choices, "choices", where)
    texts = isinstance(choices, list) and all(isinstance(each, str) for each in choices)
    if not texts or len(choices) < 2:
        raise DataError(f"{where}: 'choices' is {shown(choices)}, not a list of two or more texts.")
    if isinstance(answer, str) and answer.isdigit() and answer not in choices:
        answer = int(answer)
    if isinstance(answer, int) and not isinstance(answer, bool):
        last = len(choices) - 1
        if not 0 <= answer <= last:
            raise DataError(f"{where}: 'answer' is {answer}, but 'choices' counts from 0 to {last}.")
        answer = choices[answer]
    if not isinstance(answer, str) or answer not in choices:
        raise DataError(f"{where}: 'answer' is {shown(answer)}, neither the number of a choice nor one of {choices}.")
    if len(set(choices)) < len(choices):
        raise DataError(f"{where}: 'choices' {choices} contains a choice twice.")
    prompt = _prompt(row, "question", where)
    return Question(prompt=prompt, answer=answer, choices=tuple(choices), **_family(row, where))


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
        raise DataError(f"{where}: '{key}' is {shown(value)}, not a text.")
    return value


def _missing(row: Mapping[str, Any]) -> str:
    """Which key is missing, where the others point to one shape."""
    has = {key for key, value in row.items() if value is not None}
    for asked in dict.fromkeys(asked for asked, _ in _PAIRS):
        if asked in has:
            answers = [f"'{answered}'" for first, answered in _PAIRS if first == asked]
            lacks = answers[0] if len(answers) == 1 else f"{', '.join(answers[:-1])} or {answers[-1]}"
            return f"has '{asked}' but lacks {lacks}"
    for asked, answered in _PAIRS:
        if answered in has:
            return f"has '{answered}' but lacks '{asked}'"
    return f"has none of the needed keys, only {sorted(map(str, row))}"
