import json
import re
from pathlib import Path

import pytest

from secura.errors import ConfigError, DataError
from secura.tasks import user_tasks
from secura.tasks.question import PlainText, Question
from secura.tasks.task import Task
from secura.tasks.task_items import task_items, task_version_key
from secura.tasks.user_tasks import load_user_tasks

ROWS = [{"country": "Italy", "city": "Rome", "wrong": ["Oslo", "Kyiv"]}]
TEMPLATED = """
name: capitals
rows: rows.jsonl
metric: exact_match
prompt: "The capital of {{ country }} is"
answer: "{{ city }}"
stop: ["\\n", "."]
max_answer_tokens: 8
version: 3
tests: capitals
source: an atlas
"""


def write(folder: Path, text: str, rows: list[dict] | None = None, name: str = "mine.yaml") -> Path:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (ROWS if rows is None else rows)))
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def load(folder: Path, text: str, rows: list[dict] | None = None) -> Task:
    (task,) = load_user_tasks(write(folder, text, rows))
    return task


def test_a_yaml_file_is_a_task(tmp_path: Path) -> None:
    task = load(tmp_path, TEMPLATED)
    assert (task.name, task.version, task.metric, task.kind) == ("capitals", 3, "exact_match", "generation")
    assert (task.stop, task.max_answer_tokens) == (("\n", "."), 8)
    assert (task.tests, task.source) == ("capitals", "an atlas")
    assert task_items(task) == [Question(prompt="The capital of Italy is", answer="Rome", family="capitals")]


def test_without_templates_a_row_is_asked_as_it_stands(tmp_path: Path) -> None:
    rows = [{"question": "Sky?", "choices": ["red", "blue"], "answer": 1, "family": "colours"}]
    task = load(tmp_path, "name: mine\nrows: rows.jsonl\nmetric: accuracy\n", rows)
    assert task_items(task) == [Question(prompt="Sky?", answer="blue", choices=("red", "blue"), family="colours")]
    assert (task.version, task.stop) == (1, ("\n",))
    assert "mine.yaml" in task.prompt_reason


def test_a_prompt_alone_leaves_the_answer_to_the_row(tmp_path: Path) -> None:
    rows = [{"question": "Sky?", "choices": ["red", "blue"], "answer": 1, "hint": "look up"}]
    text = 'name: mine\nrows: rows.jsonl\nmetric: accuracy\nprompt: "{{ hint }}: {{ question }} {{ choices | join }}"\n'
    (item,) = task_items(load(tmp_path, text, rows))
    assert item == Question(prompt="look up: Sky? redblue", answer="blue", choices=("red", "blue"), family="mine")


CHOOSING = "name: mine\nrows: rows.jsonl\nmetric: accuracy\nprompt: '{{ country }}: {{ choices | join(\", \") }}'\n"


@pytest.mark.parametrize(
    ("choices", "answer"),
    [
        ("choices: ['{{ city }}', '{{ wrong[0] }}']", "answer: '{{ city }}'"),
        ("choices: ['{{ city }}', '{{ wrong[0] }}']", "answer: '0'"),
    ],
)
def test_choices_are_templates_and_the_answer_one_of_them_or_its_number(
    tmp_path: Path, choices: str, answer: str
) -> None:
    (item,) = task_items(load(tmp_path, f"{CHOOSING}{choices}\n{answer}\n"))
    assert item == Question(prompt="Italy: Rome, Oslo", answer="Rome", choices=("Rome", "Oslo"), family="mine")


def test_choices_may_be_a_column(tmp_path: Path) -> None:
    (item,) = task_items(load(tmp_path, f"{CHOOSING}choices: wrong\nanswer: '{{{{ 3 - 2 }}}}'\n"))
    assert item == Question(prompt="Italy: Oslo, Kyiv", answer="Kyiv", choices=("Oslo", "Kyiv"), family="mine")


def test_an_answer_that_may_be_a_choice_or_the_number_of_another_is_refused(tmp_path: Path) -> None:
    text = f"{CHOOSING}choices: ['0', '1', '5', '3']\nanswer: '{{{{ right }}}}'\n"
    rows = [{"country": "Italy", "right": right} for right in ("1", "3")]  # either reading gives the same choice
    assert [item.answer for item in task_items(load(tmp_path, text, rows)) if isinstance(item, Question)] == ["1", "3"]
    text = f"{CHOOSING}choices: ['1', '2', '3']\nanswer: '1'\n"
    with pytest.raises(DataError, match="answer '1' may be one of them or the number of another"):
        task_items(load(tmp_path, text))


def test_a_rule_of_the_task_holds_where_a_row_names_none(tmp_path: Path) -> None:
    text = TEMPLATED.replace("exact_match", "match\nmatch: contains")
    (item,) = task_items(load(tmp_path, text))
    assert isinstance(item, Question)
    assert item.match == "contains"
    rows = [{"prompt": "a?", "target": "7"}, {"prompt": "b?", "target": "8", "match": "number"}]
    items = task_items(load(tmp_path, "name: mine\nrows: rows.jsonl\nmetric: match\nmatch: contains\n", rows))
    assert [item.match for item in items if isinstance(item, Question)] == ["contains", "number"]


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ("metric: match\nmatch: contain", "'match' is 'contain'; the nearest is 'contains', all are exact, normalised"),
        ("metric: exact_match\nmatch: contains", "'match' is for metric match, and 'metric' is 'exact_match'"),
    ],
)
def test_a_rule_that_is_none_or_does_nothing_is_refused(tmp_path: Path, keys: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load(tmp_path, f"name: mine\nrows: rows.jsonl\n{keys}\n")


def test_plain_text_is_scored_by_perplexity(tmp_path: Path) -> None:
    text = "name: mine\nrows: rows.jsonl\nmetric: perplexity\n"
    assert task_items(load(tmp_path, text, [{"text": "a b"}])) == [PlainText(text="a b", family="mine")]
    text += "prompt: '{{ country }} {{ city }}'\n"
    assert task_items(load(tmp_path, text)) == [PlainText(text="Italy Rome", family="mine")]


def test_rows_to_learn_from_are_named_apart(tmp_path: Path) -> None:
    task = load(tmp_path, TEMPLATED)
    with pytest.raises(DataError, match=r"capitals names no rows to learn from \(train_rows\)"):
        task_items(task, split="train")
    (tmp_path / "more.jsonl").write_text('{"country": "Peru", "city": "Lima"}\n')
    task = load(tmp_path, TEMPLATED + "train_rows: more.jsonl\n")
    assert [item.answer for item in task_items(task, split="train") if isinstance(item, Question)] == ["Lima"]


def test_rows_are_looked_for_beside_the_file_and_need_no_folder_of_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = load(tmp_path, TEMPLATED)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert len(task_items(task, data=elsewhere)) == 1
    assert load(tmp_path, TEMPLATED.replace("rows.jsonl", "org/rows:main:dev")).rows == {"test": "org/rows:main:dev"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("prompts: a", "unknown key 'prompts'; the nearest is 'prompt', all are name, rows"),
        ("max_tokens: 3", "unknown key 'max_tokens'; the nearest is 'max_answer_tokens'"),
        ("1: 2", "unknown key 1; the nearest is"),
        ("version: 0", "'version' is 0, not a whole number from 1"),
        ("version: true", "'version' is True, not a whole number from 1"),
        ("max_answer_tokens: many", "'max_answer_tokens' is 'many', not a whole number"),
        ("stop: []", "'stop' is [], not a text or a list of texts"),
        ("stop: ['']", "'stop' is [''], not a text or a list of texts"),
        ("prompt: ''", "'prompt' is '', not a text"),
        ("prompt: 3", "'prompt' is 3, not a text"),
        ("prompt: '{{ a'", "'prompt' is no jinja2 template: unexpected end"),
        ("answer: a", "has 'answer' but no 'prompt'"),
        ("prompt: a\nchoices: [a, b]", "has 'choices' but no 'answer'"),
        ("prompt: a\nanswer: a\nchoices: ['{{', b]", "'choices' is no jinja2 template"),
        ("metric: acuracy", "'metric' is 'acuracy'; the nearest is 'accuracy', all are accuracy, "),
        ("name: my task", "'name' is 'my task'; use only letters, digits"),
        ("rows: gone.jsonl", "gone.jsonl) nor a hub name"),
        ("train_rows: ./gone", "'train_rows' is './gone'; neither a file"),
    ],
)
def test_a_key_that_cannot_be_used_is_named_with_its_file(tmp_path: Path, text: str, says: str) -> None:
    keys = {"name": "mine", "rows": "rows.jsonl", "metric": "exact_match"}
    lines = [f"{key}: {value}" for key, value in keys.items() if not re.match(f"{key}:", text)]
    with pytest.raises(ConfigError) as raised:
        load(tmp_path, "\n".join([*lines, text]))
    assert str(raised.value).startswith(f"{tmp_path / 'mine.yaml'}: ")
    assert says in str(raised.value)


@pytest.mark.parametrize("key", ["name", "rows", "metric"])
def test_a_key_that_is_needed_is_asked_for(tmp_path: Path, key: str) -> None:
    text = re.sub(f"^{key}: .*$", "", TEMPLATED, flags=re.MULTILINE)
    with pytest.raises(ConfigError, match=f"lacks '{key}'; a task needs name, rows, metric"):
        load(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "says"),
    [("", "holds no settings"), ("- a", "holds no settings"), ("name: [", "is not YAML"), ("a: \tb: c", "is not YAML")],
)
def test_a_file_that_is_no_settings_is_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load(tmp_path, text)


@pytest.mark.parametrize(
    ("keys", "rows", "says"),
    [
        (
            "prompt: '{{ town }}'\nanswer: '{{ city }}'",
            ROWS,
            "rows.jsonl, line 1: template 'prompt' does not fit: 'town' is undefined; the columns are country, city",
        ),
        ("prompt: a\nanswer: ' {{ city[9:] }}'", ROWS, "line 1: 'answer' comes out empty"),
        ("", ROWS, "line 1: read without a template for the answer: has none of the needed keys"),
        ("prompt: a\nanswer: b\nchoices: city", ROWS, "'choices' names column 'city', which holds 'Rome'"),
        ("prompt: a\nanswer: b\nchoices: wrong", ROWS, "answer 'b' is none of them, nor a number from 0"),
        ("prompt: a\nanswer: '2'\nchoices: wrong", ROWS, "answer '2' is none of them"),
        ("prompt: a\nanswer: b\nchoices: [b, b]", ROWS, "line 1: task mine cannot read it (ValueError: choices"),
        ("prompt: a\nanswer: b\nchoices: [b, c]", ROWS, "line 1: has choices, but metric exact_match of task mine"),
        ("prompt: a\nanswer: '{{ city.__class__ }}'", ROWS, "template 'answer' does not fit: access to attribute"),
    ],
)
def test_a_row_that_does_not_fit_is_named_by_file_and_line(
    tmp_path: Path, keys: str, rows: list[dict], says: str
) -> None:
    task = load(tmp_path, f"name: mine\nrows: rows.jsonl\nmetric: exact_match\n{keys}\n", rows)
    with pytest.raises(DataError) as raised:
        task_items(task)
    assert says in str(raised.value)
    assert str(raised.value).count("line 1") == 1


def test_the_version_key_changes_with_each_template(tmp_path: Path) -> None:
    key = task_version_key(load(tmp_path, TEMPLATED))
    assert key == task_version_key(load(tmp_path, TEMPLATED))
    assert key != task_version_key(load(tmp_path, TEMPLATED.replace("The capital", "A capital")))
    assert key != task_version_key(load(tmp_path, TEMPLATED.replace("{{ city }}", "{{ city | upper }}")))


PYTHON = """
from dataclasses import dataclass
from secura.tasks.question import Question
from secura.tasks.task import Task

@dataclass(frozen=True)
class Ask:
    prompt: str

    def __call__(self, row):
        return Question(prompt=self.prompt.format(**row), answer=row["city"])

def task(name):
    return Task(
        name=name, version=1, tests="capitals", source="an atlas", prompt_reason="short",
        metric="exact_match", item=Ask("Capital of {country}:"), rows={"test": "rows.jsonl"},
    )

"""


def test_a_python_file_defines_one_task_or_several(tmp_path: Path) -> None:
    one = write(tmp_path, PYTHON + "TASK = task('capitals')\n", name="one.py")
    (task,) = load_user_tasks(one)
    assert task_items(task) == [Question(prompt="Capital of Italy:", answer="Rome", family="capitals")]
    for several in ("[task('a'), task('b')]", "{'a': task('a'), 'b': task('b')}", "(task('a'), task('b'))"):
        path = write(tmp_path, f"{PYTHON}TASKS = {several}\n", name="several.py")
        assert [task.name for task in load_user_tasks(path)] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("TASKS = []", "defines neither TASK nor TASKS"),
        ("", "defines neither TASK nor TASKS"),
        ("TASK = 3", "TASK holds int, not a secura.tasks.task.Task"),
        ("x = 1\ny = 1 / 0", "fails when it is run: line 2, ZeroDivisionError: division by zero."),
        ("x = (", "fails when it is run: line 1, SyntaxError"),
        ("import no_such_thing", "line 1, ModuleNotFoundError: No module named 'no_such_thing'"),
        (f"{PYTHON}TASK = task('a')\nobject.__setattr__(TASK, 'metric', 'f1')", "task a has metric 'f1'; all are"),
    ],
)
def test_a_python_file_that_cannot_be_used_is_refused(tmp_path: Path, text: str, says: str) -> None:
    path = write(tmp_path, text, name="mine.py")
    with pytest.raises(ConfigError) as raised:
        load_user_tasks(path)
    assert str(raised.value).startswith(str(path))
    assert says in str(raised.value)


def test_the_documented_file_is_a_task(tmp_path: Path) -> None:
    documented = re.findall(r"^    (.*)$", user_tasks.__doc__ or "", re.MULTILINE)
    path = write(tmp_path, "\n".join(documented), name="capitals.yaml")
    (tmp_path / "capitals.jsonl").write_text('{"country": "Italy", "prompt": "", "question": "?", "answer": "Rome"}\n')
    (tmp_path / "more.jsonl").write_text("")
    (task,) = load_user_tasks(path)
    assert task_items(task) == [Question(prompt="The capital of Italy is", answer="Rome", family="capitals")]
    assert task.stop == ("\n", ".")
