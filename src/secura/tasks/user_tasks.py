"""A user's own task: one YAML file, or one Python file that defines TASK or TASKS.

A YAML file says where the rows are and how one is asked; paths are relative to the file.

    name: capitals
    rows: capitals.jsonl            # what is scored: a file, or a hub data set org/name:config:split
    train_rows: more.jsonl          # what is learned from; may be left out
    metric: exact_match             # accuracy, accuracy_by_length, exact_match, match, number_match,
                                    # rouge1, rougeL, bleu, chrf or perplexity
    prompt: "The capital of {{ country }} is"
    stop: ["\\n", "."]
    max_answer_tokens: 16
    version: 1

`prompt`, `answer` and each of `choices` are jinja2 templates over the columns of a row. Left out,
a row must be one that `secura train` reads, such as `{prompt, target}` or
`{question, choices, answer}`, and is asked as it stands. `choices` may also name the column that
holds the list; `answer` then gives one of them, or its number from 0.

With metric match each row is compared by its own rule (`secura.evaluation.answer_match`); one that
names none by the task's, such as `match: contains`.

A Python file is run; its `TASK` is a `secura.tasks.task.Task`, or its `TASKS` several.
"""

import importlib.util
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

import yaml
from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from secura.errors import ConfigError, DataError
from secura.tasks.data_files import hub_name
from secura.tasks.data_rows import MATCHES, item_from_row
from secura.tasks.question import Item, Match, PlainText, Question
from secura.tasks.task import Metric, Row, Split, Task

USER_TASK_SUFFIXES = (".yaml", ".yml", ".py")
"""How the path of a user's task ends."""

_METRICS: tuple[Metric, ...] = get_args(Metric)
_REQUIRED = ("name", "rows", "metric")
_TEXTS = ("name", "rows", "train_rows", "prompt", "answer", "metric", "match", "tests", "source")
_COUNTS = ("version", "max_answer_tokens")
_LISTS = ("choices", "stop")
_KEYS = (*_TEXTS, *_COUNTS, *_LISTS)


@dataclass(frozen=True, kw_only=True)
class TemplatedItem:
    """What a row asks, by the user's templates; whatever has none is taken from the row itself."""

    prompt: str | None = None
    """Template of the prompt, or of the whole text where the task is scored by perplexity."""
    choices: str | tuple[str, ...] | None = None
    """A column that holds the choices, or a template for each."""
    answer: str | None = None
    """Template of the right answer."""
    plain: bool = False
    """Whether the prompt is all there is, to be scored as plain text."""

    def __call__(self, row: Row) -> Item:
        """Ask a row.

        Raises:
            DataError: if a column is missing, or the answer is none of the choices.
        """
        if self.plain and self.prompt is not None:
            return PlainText(text=_filled(self.prompt, "prompt", row))
        if self.answer is None:
            item = item_from_row(row, where="read without a template for the answer")
            if self.prompt is None or isinstance(item, PlainText):
                return item
            return replace(item, prompt=_filled(self.prompt, "prompt", row), turns=(), tools=(), answer_turn=None)
        assert self.prompt is not None
        choices = self._choices(row)
        columns = {**row, "choices": choices} if choices else row
        prompt = _filled(self.prompt, "prompt", columns)
        answer = _filled(self.answer, "answer", columns).strip()
        if not answer:
            raise DataError("'answer' comes out empty.")
        if choices:
            answer = _one_of(choices, answer)
        return Question(prompt=prompt, answer=answer, choices=choices)

    def _choices(self, row: Row) -> tuple[str, ...]:
        if self.choices is None:
            return ()
        if isinstance(self.choices, tuple):
            return tuple(_filled(choice, "choices", row).strip() for choice in self.choices)
        column = row.get(self.choices)
        if not isinstance(column, Sequence) or isinstance(column, str) or len(column) < 2:
            raise DataError(f"'choices' names column {self.choices!r}, which holds {column!r}, not a list of choices.")
        return tuple(str(choice).strip() for choice in column)


@dataclass(frozen=True, kw_only=True)
class RuledItem:
    """What a row asks, its answers compared by the task's rule where the row names none."""

    asked: TemplatedItem
    """What a row asks."""
    match: Match
    """The task's rule."""

    def __call__(self, row: Row) -> Item:
        """Ask a row."""
        item = self.asked(row)
        if isinstance(item, Question) and not item.choices and item.match == "exact":
            return replace(item, match=self.match)
        return item


def load_user_tasks(path: Path) -> list[Task]:
    """The tasks in one file.

    Raises:
        ConfigError: naming the file and the key, with the way out.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; a task of your own is a .yaml or .py file.")
    return _from_python(path) if path.suffix == ".py" else [_from_yaml(path)]


def _from_yaml(path: Path) -> Task:
    keys = _checked_keys(path)
    metric: Metric = keys["metric"]
    prompt, choices, answer = (keys.get(key) for key in ("prompt", "choices", "answer"))
    if answer is not None and prompt is None:
        raise ConfigError(f"{path}: has 'answer' but no 'prompt'; a template for the answer needs one for the prompt.")
    if choices is not None and answer is None:
        raise ConfigError(f"{path}: has 'choices' but no 'answer'; say which of them is right.")
    for key, template in [("prompt", prompt), ("answer", answer), *(("choices", each) for each in _templates(choices))]:
        if template is not None:
            try:
                _template(template)
            except TemplateError as problem:
                raise ConfigError(f"{path}: {key!r} is no jinja2 template: {problem}.") from problem
    rows: dict[Split, str] = {"test": _source(path, "rows", keys["rows"])}
    if "train_rows" in keys:
        rows["train"] = _source(path, "train_rows", keys["train_rows"])
    item = TemplatedItem(
        prompt=prompt,
        choices=tuple(choices) if isinstance(choices, list) else choices,
        answer=answer,
        plain=metric == "perplexity",
    )
    optional: dict[str, Any] = {key: keys[key] for key in ("max_answer_tokens",) if key in keys}
    if "stop" in keys:
        optional["stop"] = tuple([keys["stop"]] if isinstance(keys["stop"], str) else keys["stop"])
    return Task(
        name=keys["name"],
        version=keys.get("version", 1),
        tests=keys.get("tests", f"a user's own task, {path.name}"),
        source=keys.get("source", keys["rows"]),
        prompt_reason=f"The user's own, in {path.name}.",
        metric=metric,
        item=RuledItem(asked=item, match=keys["match"]) if "match" in keys else item,
        rows=rows,
        **optional,
    )


def _checked_keys(path: Path) -> Mapping[str, Any]:
    try:
        keys = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigError(f"{path} cannot be read: {problem}.") from problem
    except RecursionError as problem:
        raise ConfigError(f"{path} is nested too deeply to be read; a task has keys and values.") from problem
    except (yaml.YAMLError, ValueError) as problem:  # such as a date that is none
        raise ConfigError(f"{path} is not YAML: {' '.join(str(problem).split())}.") from problem
    if not isinstance(keys, dict):
        raise ConfigError(f"{path} holds no settings such as 'name: capitals'; keys are {', '.join(_KEYS)}.")
    for key, value in keys.items():
        if key not in _KEYS:
            near = get_close_matches(str(key), _KEYS, n=1, cutoff=0.0)[0]
            raise ConfigError(f"{path}: unknown key {key!r}; the nearest is {near!r}, all are {', '.join(_KEYS)}.")
        _check_value(path, key, value)
    for key in _REQUIRED:
        if key not in keys:
            raise ConfigError(f"{path}: lacks {key!r}; a task needs {', '.join(_REQUIRED)}.")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", keys["name"]):
        raise ConfigError(f"{path}: 'name' is {keys['name']!r}; use only letters, digits, _ and -.")
    if keys["metric"] not in _METRICS:
        near = get_close_matches(keys["metric"], _METRICS, n=1, cutoff=0.0)[0]
        raise ConfigError(
            f"{path}: 'metric' is {keys['metric']!r}; the nearest is {near!r}, all are {', '.join(_METRICS)}."
        )
    if "match" in keys and keys["match"] not in MATCHES:
        near = get_close_matches(keys["match"], MATCHES, n=1, cutoff=0.0)[0]
        raise ConfigError(
            f"{path}: 'match' is {keys['match']!r}; the nearest is {near!r}, all are {', '.join(MATCHES)}."
        )
    if "match" in keys and keys["metric"] != "match":
        raise ConfigError(f"{path}: 'match' is for metric match, and 'metric' is {keys['metric']!r}; change one.")
    return keys


def _check_value(path: Path, key: str, value: object) -> None:
    wanted = "a text"
    if key in _COUNTS:
        wanted = "a whole number from 1"
        fits = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    elif key in _LISTS and isinstance(value, list):
        wanted = "a text or a list of texts"
        fits = bool(value) and all(isinstance(each, str) and each for each in value)
    else:
        fits = isinstance(value, str) and bool(value)
    if not fits:
        raise ConfigError(f"{path}: {key!r} is {value!r}, not {wanted}.")


def _templates(choices: object) -> Sequence[str]:
    return choices if isinstance(choices, list) else ()


def _source(path: Path, key: str, named: str) -> str:
    """Where rows lie: a file beside the task's own, or else the name of a hub data set."""
    beside = path.parent / Path(named).expanduser()
    if beside.exists():
        return str(beside)
    try:
        hub_name(named, "test")
    except DataError as problem:
        raise ConfigError(f"{path}: {key!r} is {named!r}; neither a file ({beside}) nor a hub name.") from problem
    return named


def _from_python(path: Path) -> list[Task]:
    spec = importlib.util.spec_from_file_location(f"secura_user_task_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their own module up
    try:
        spec.loader.exec_module(module)
    except Exception as problem:  # the user's own code
        sys.modules.pop(spec.name, None)
        raise ConfigError(f"{path} fails when it is run: {_line_in(path, problem)}") from problem
    one, several = getattr(module, "TASK", None), getattr(module, "TASKS", None)
    if isinstance(several, Mapping):
        several = list(several.values())
    tasks = [one] if one is not None else several
    if not isinstance(tasks, (list, tuple)) or not tasks:
        raise ConfigError(f"{path} defines neither TASK nor TASKS; define TASK = secura.tasks.task.Task(...).")
    for task in tasks:
        if not isinstance(task, Task):
            raise ConfigError(f"{path}: TASK holds {type(task).__name__}, not a secura.tasks.task.Task.")
        if task.metric not in _METRICS:
            raise ConfigError(f"{path}: task {task.name} has metric {task.metric!r}; all are {', '.join(_METRICS)}.")
    return [_with_found_rows(path, task) for task in tasks]


def _with_found_rows(path: Path, task: Task) -> Task:
    if task.rows is None:
        return task
    return replace(task, rows={split: _source(path, f"rows of {task.name}", own) for split, own in task.rows.items()})


def _line_in(path: Path, problem: Exception) -> str:
    """The error, and the line of the user's file it came from."""
    line = problem.lineno if isinstance(problem, SyntaxError) else None
    trace = problem.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    where = f"line {line}, " if line else ""
    return f"{where}{type(problem).__name__}: {' '.join(str(problem).split())}."


_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)


@lru_cache(maxsize=256)
def _template(text: str) -> Template:
    return _ENVIRONMENT.from_string(text)


def _filled(template: str, key: str, row: Mapping[str, Any]) -> str:
    try:
        return _template(template).render(row)
    except Exception as problem:  # a template may call what it likes
        columns = ", ".join(map(str, row))
        raise DataError(f"template {key!r} does not fit: {problem}; the columns are {columns}.") from problem


def _one_of(choices: Sequence[str], answer: str) -> str:
    """The choice that is meant: by its text, or by its number from 0."""
    by_text = [choice for choice in choices if choice.strip() == answer]
    number = int(answer) if answer.isdigit() else len(choices)
    by_number = [choices[number]] if number < len(choices) else []
    meant = {*by_text, *by_number}
    if len(meant) != 1:
        why = "may be one of them or the number of another" if meant else "is none of them, nor a number from 0"
        raise DataError(f"answer {answer!r} {why}: {list(choices)}.")
    return meant.pop()
