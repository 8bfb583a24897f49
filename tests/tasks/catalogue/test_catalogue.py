import json
import pkgutil
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path

import pytest

from secura.tasks import catalogue
from secura.tasks.catalogue import CATALOGUE
from secura.tasks.finding import GROUPS
from secura.tasks.question import PlainText, Question
from secura.tasks.task import Task
from secura.tasks.task_items import chance_level, task_items, task_version_key

FROM_DATA = [name for name, task in CATALOGUE.items() if task.bundled is None]
BUNDLED = [name for name, task in CATALOGUE.items() if task.bundled is not None]
FILES = [file.name for file in pkgutil.iter_modules(catalogue.__path__)]


def test_a_task_is_called_what_its_file_is_called() -> None:
    tasks = {name: import_module(f"{catalogue.__name__}.{name}") for name in FILES}
    tasks = {name: module.TASK for name, module in tasks.items() if hasattr(module, "TASK")}
    assert {name: task.name for name, task in tasks.items()} == {name: name for name in tasks}
    assert set(tasks) == {*FROM_DATA, "order_json"} - set(GROUPS["bbh"])
    assert all(CATALOGUE[name] is task for name, task in tasks.items())


def test_there_are_as_many_tasks_as_the_parts_hold() -> None:
    assert len(CATALOGUE) == 22 + 1 + 27 + 22 + 13 + 20
    assert all(name == task.name for name, task in CATALOGUE.items())


@pytest.mark.parametrize("task", CATALOGUE.values(), ids=lambda task: task.name)
def test_a_task_says_what_it_tests_where_it_is_from_and_why_it_asks_so(task: Task) -> None:
    written = {field.name: getattr(task, field.name) for field in fields(task)}
    texts = [written[name] for name in ("name", "tests", "source", "prompt_reason")]
    assert all(isinstance(text, str) and text.strip() == text != "" for text in texts)
    assert task.prompt_reason.endswith(".")
    assert task.version >= 1
    assert all(task.stop)
    assert (task.hub is None) == (task.row_from_hub is None)


def test_the_shared_data_and_the_catalogue_cover_each_other(shared_data: Path) -> None:
    assert {path.name.split(".")[0] for path in shared_data.glob("*.jsonl")} == set(FROM_DATA)


@pytest.mark.parametrize("name", FROM_DATA)
def test_a_task_loads_from_the_shared_data(name: str, shared_data: Path) -> None:
    task = CATALOGUE[name]
    items = task_items(task, data=shared_data)
    lines = (shared_data / f"{name}.test.jsonl").read_text(encoding="utf-8").split("\n")
    assert len(items) == sum(1 for line in lines if line)
    assert {item.family for item in items} == {name}
    for item in items:
        if isinstance(item, PlainText):
            assert task.kind == "text"
            assert item.text.strip()
            continue
        assert item.prompt.strip()
        assert bool(item.choices) == (task.kind == "choice")
        assert item.answer == item.answer.strip() != ""
        assert all(choice == choice.strip() != "" for choice in item.choices)


@pytest.mark.parametrize("name", [name for name in FROM_DATA if CATALOGUE[name].kind == "generation"])
def test_no_right_answer_holds_what_would_end_it(name: str, shared_data: Path) -> None:
    task = CATALOGUE[name]
    answers = [item.answer for item in task_items(task, data=shared_data) if isinstance(item, Question)]
    assert not [answer for answer in answers if any(stop in answer for stop in task.stop)]
    tokens = sorted(len(answer) / 4 for answer in answers)  # four characters a token is what English takes
    assert tokens[3 * len(tokens) // 4] <= task.max_answer_tokens


@pytest.mark.parametrize("name", [name for name in CATALOGUE if CATALOGUE[name].kind == "choice"])
def test_the_chance_level_follows_from_the_items(name: str, request: pytest.FixtureRequest) -> None:
    data = None if name in BUNDLED else request.getfixturevalue("shared_data")
    items = task_items(CATALOGUE[name], data=data, count=50)
    level = chance_level(items)
    assert level is not None
    assert 1 / 18 <= level <= 1 / 2


def test_the_chance_level_is_a_mean_over_items_of_different_sizes() -> None:
    two, four = (Question(prompt="?", answer="a", choices=tuple(choices)) for choices in ("ab", "abcd"))
    assert chance_level([two, four]) == pytest.approx(0.375)
    assert chance_level([two, Question(prompt="?", answer="a")]) is None
    assert chance_level([]) is None


@pytest.mark.parametrize("name", BUNDLED)
def test_a_task_that_comes_with_secura_draws_its_own_questions(name: str) -> None:
    task = CATALOGUE[name]
    items = task_items(task, count=9, seed=3)
    assert 1 < len(items) <= 9
    assert items == task_items(task, count=9, seed=3)
    assert all(isinstance(item, Question) and bool(item.choices) == (task.kind == "choice") for item in items)
    assert {item.family for item in items} == {name.removeprefix("everyday_")}


def test_what_is_learned_of_the_bundled_world_is_never_asked() -> None:
    for name in GROUPS["new_tasks"]:
        asked = {item.prompt for item in task_items(CATALOGUE[name], count=50) if isinstance(item, Question)}
        learned = {
            item.prompt for item in task_items(CATALOGUE[name], split="train", count=200) if isinstance(item, Question)
        }
        assert asked
        assert learned
        assert not asked & learned


@pytest.mark.parametrize("name", FROM_DATA)
def test_the_version_key_changes_with_the_prompt(name: str) -> None:
    task = CATALOGUE[name]

    def item(row: object) -> Question | PlainText:
        own = task.item(row)  # type: ignore[arg-type]
        return (
            replace(own, text=own.text + " ") if isinstance(own, PlainText) else replace(own, prompt=own.prompt + "!")
        )

    assert task_version_key(replace(task, item=item)) != task_version_key(task)


def test_the_version_key_changes_with_whatever_moves_a_score_and_with_nothing_else() -> None:
    task = CATALOGUE["gsm8k"]
    others = [
        replace(task, version=2),
        replace(task, metric="exact_match"),
        replace(task, stop=("\n",)),
        replace(task, max_answer_tokens=8),
    ]
    assert len({task_version_key(each) for each in [task, *others]}) == 5
    assert task_version_key(replace(task, tests="sums", hub=None)) == task_version_key(task)
    assert task_version_key(task).startswith("gsm8k-v1-")


def test_version_keys_of_the_bundled_world_tell_its_tasks_apart() -> None:
    keys = {task_version_key(CATALOGUE[name]).rsplit("-", 1)[1] for name in BUNDLED}
    assert len(keys) == len(BUNDLED)


def test_a_row_of_the_shared_data_is_asked_as_it_was_joined(shared_data: Path) -> None:
    row = json.loads((shared_data / "winogrande.test.jsonl").read_text(encoding="utf-8").split("\n")[0])
    item = CATALOGUE["winogrande"].item(row)
    assert isinstance(item, Question)
    right = row["choices"][row["answer"]]
    assert f"{item.prompt} {item.answer}" == row["question"].replace("_", right)


def test_a_sentence_that_begins_with_its_blank_has_a_prompt_still() -> None:
    row = {"question": "_ was late.", "choices": ["Ann", "Eve"], "answer": 1}
    item = CATALOGUE["winogrande"].item(row)
    assert isinstance(item, Question)
    assert (item.prompt, item.answer) == ("\n", "Eve was late.")
