import gzip
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import datasets
import datasets.config
import pytest

from secura.errors import ConfigError, DataError
from secura.tasks.catalogue import CATALOGUE
from secura.tasks.everyday import FAMILIES
from secura.tasks.question import Item, PlainText, Question
from secura.tasks.task import HubRows, Row, Task
from secura.tasks.task_items import task_items, task_version_key
from secura.tasks.user_tasks import load_user_tasks
from secura.tasks.world import knowledge_questions

TASK = replace(CATALOGUE["piqa"], name="mine")
ROWS = [{"question": f"{number}?", "choices": ["a", "b"], "answer": number % 2} for number in range(20)]


def write(folder: Path, rows: Sequence[object], name: str = "mine.test.jsonl") -> Path:
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (folder / name).write_bytes(gzip.compress(lines) if name.endswith(".gz") else lines)
    return folder


def numbers(items: Sequence[Item]) -> list[int]:
    prompts = [item.prompt for item in items if isinstance(item, Question)]
    return [int(prompt.removeprefix("Question: ").partition("?")[0]) for prompt in prompts]


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SECURA_DATA", raising=False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("name", ["mine.test.jsonl", "mine.test.jsonl.gz"])
def test_a_file_of_the_folder_is_read_in_order(tmp_path: Path, name: str) -> None:
    items = task_items(TASK, data=write(tmp_path, ROWS, name))
    assert numbers(items) == list(range(20))
    expected = Question(prompt="Question: 1?\nAnswer:", answer="b", choices=("a", "b"), family="mine", by_length=True)
    assert items[1] == expected


def test_train_rows_lie_in_a_file_of_their_own(tmp_path: Path) -> None:
    write(tmp_path, ROWS[:3], "mine.train.jsonl")
    assert numbers(task_items(TASK, data=write(tmp_path, ROWS[3:]), split="train")) == [0, 1, 2]


def test_a_sample_is_fixed_by_its_seed_and_keeps_the_files_order(tmp_path: Path) -> None:
    write(tmp_path, ROWS)
    first, again, other = (numbers(task_items(TASK, data=tmp_path, count=7, seed=seed)) for seed in (0, 0, 1))
    assert first == again == sorted(first)
    assert first != other
    assert len(set(first)) == 7
    assert set(first) < set(numbers(task_items(TASK, data=tmp_path, count=11, seed=0)))
    assert numbers(task_items(TASK, data=tmp_path, count=100)) == list(range(20))
    assert task_items(TASK, data=tmp_path, count=0) == []
    with pytest.raises(ConfigError, match="-1 items of mine"):
        task_items(TASK, data=tmp_path, count=-1)


def test_the_folder_given_comes_before_the_one_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, named = tmp_path / "given", tmp_path / "named"
    given.mkdir()
    named.mkdir()
    write(given, ROWS[:1])
    write(named, ROWS[1:])
    monkeypatch.setenv("SECURA_DATA", str(named))
    assert numbers(task_items(TASK, data=given)) == [0]
    assert numbers(task_items(TASK)) == list(range(1, 20))


def test_a_file_may_hold_any_row_that_training_reads(tmp_path: Path) -> None:
    write(tmp_path, [{"question": "0?", "choices": ["a", "b"], "answer": "b"}])
    assert [item.answer for item in task_items(TASK, data=tmp_path) if isinstance(item, Question)] == ["b"]
    gsm8k = replace(CATALOGUE["gsm8k"], name="mine")
    write(tmp_path, [{"messages": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]}])
    assert task_items(gsm8k, data=tmp_path) == [
        Question(prompt="Question: 1+1?\nAnswer:", answer="2", family="mine"),
    ]


def test_a_missing_file_is_one_error_with_every_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError) as raised:
        task_items(TASK, data=tmp_path)
    assert str(raised.value) == (
        f"task mine: --data-dir {tmp_path} has no mine.test.jsonl or .gz; name another folder with --data-dir "
        "or SECURA_DATA, or name no folder, to read baber/piqa:validation from the hub."
    )
    monkeypatch.setenv("SECURA_DATA", str(tmp_path / "gone"))
    with pytest.raises(DataError, match=r"SECURA_DATA=.*gone is not a folder; name another folder"):
        task_items(TASK)
    monkeypatch.setenv("SECURA_DATA", "")
    with pytest.raises(DataError) as raised:
        task_items(TASK)
    said = str(raised.value)
    assert said.startswith("task mine: no folder of task data is named, and baber/piqa:validation could not be loaded")
    assert "HF_HUB_OFFLINE is set" in said
    assert "name a folder that holds mine.test.jsonl with --data-dir or SECURA_DATA" in said
    assert said.endswith(", or ask tasks that come with secura, such as everyday.")


def test_a_task_without_rows_of_a_kind_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"mmlu has no train rows on the hub; name a folder that holds mmlu\.train"):
        task_items(CATALOGUE["mmlu"], split="train")
    with pytest.raises(DataError, match=r"--data-dir \S+ has no mmlu\.train\.jsonl or \.gz; name another folder"):
        task_items(CATALOGUE["mmlu"], data=tmp_path, split="train")
    with pytest.raises(DataError, match="homes only asks what a model already knows; it has no rows to learn from"):
        task_items(CATALOGUE["homes"], split="train")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"question": "a?", "choices": ["b"], "answer": 0}, "mine.test.jsonl, line 2: 'choices'"),
        ({"prompt": "a?", "target": "b"}, "line 2: task mine cannot read it (KeyError: 'question')"),
        ([], "line 2: holds []"),
    ],
)
def test_a_row_that_cannot_be_read_is_named_by_file_and_line(tmp_path: Path, row: object, says: str) -> None:
    with pytest.raises(DataError) as raised:
        task_items(TASK, data=write(tmp_path, [ROWS[0], row]))
    assert says in str(raised.value)


def test_a_row_of_the_wrong_shape_for_the_metric_is_refused(tmp_path: Path) -> None:
    task = replace(CATALOGUE["gsm8k"], name="mine", item=TASK.item)
    with pytest.raises(DataError, match="line 1: has choices, but metric number_match of task mine needs a free"):
        task_items(task, data=write(tmp_path, ROWS))


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"mine\.test\.jsonl holds no row for task mine"):
        task_items(TASK, data=write(tmp_path, []))


def test_rows_of_the_hub_are_mapped_sampled_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(path: str, config: str | None, *, split: str) -> datasets.Dataset:
        asked.append((path, config, split))
        return datasets.Dataset.from_list([{"column": number} for number in range(20)])

    def row_from_hub(row: Row) -> Row | None:
        return ROWS[row["column"]] if row["column"] % 2 else None

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    task = replace(TASK, hub=HubRows(path="org/mine", config="main", test_split="dev"), row_from_hub=row_from_hub)
    assert numbers(task_items(task)) == list(range(1, 20, 2))
    assert len(numbers(task_items(task, count=4, seed=1))) == 4
    assert numbers(task_items(task, split="train"))
    assert asked == [("org/mine", "main", "dev")] * 2 + [("org/mine", "main", "train")]


def test_a_row_of_the_hub_with_other_columns_is_named_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = datasets.Dataset.from_list([{"goal": "a", "sol1": "b"}])
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)
    with pytest.raises(DataError, match=r"baber/piqa:validation, row 1: task mine cannot read it \(KeyError: 'sol2'\)"):
        task_items(TASK)


def test_knowledge_of_the_bundled_world_is_asked_as_training_asks_it(tmp_path: Path) -> None:
    drawn = task_items(CATALOGUE["homes"], data=tmp_path, count=9, seed=4)
    assert drawn == [question for question in knowledge_questions(9, 4) if question.family == "homes"]
    assert len(task_items(CATALOGUE["sums"])) <= CATALOGUE["sums"].drawn["test"]


@pytest.mark.parametrize(("name", "by_length"), [("arc_easy", True), ("commonsense_qa", False), ("gsm8k", False)])
def test_questions_carry_the_rule_of_their_task(name: str, by_length: bool, tmp_path: Path) -> None:
    row = {"prompt": "a?", "target": "1"} if name == "gsm8k" else {"question": "a?", "choices": ["b", "c"], "answer": 0}
    (tmp_path / f"{name}.test.jsonl").write_text(json.dumps(row) + "\n")
    (item,) = task_items(CATALOGUE[name], data=tmp_path)
    assert isinstance(item, Question)
    assert item.by_length is by_length


def test_a_rule_that_the_metric_would_not_follow_is_refused_by_its_line(tmp_path: Path) -> None:
    rows = [{"prompt": "a?", "target": "b"}, {"prompt": "c?", "target": "d", "match": "contains"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    yaml = tmp_path / "mine.yaml"
    yaml.write_text("name: mine\nrows: rows.jsonl\nmetric: exact_match\n")
    (task,) = load_user_tasks(yaml)
    with pytest.raises(DataError, match=r"line 2: 'match' is 'contains', but metric exact_match of task mine"):
        task_items(task)
    items = task_items(replace(task, metric="match"))
    assert [item.match for item in items if isinstance(item, Question)] == ["exact", "contains"]


def test_a_changed_rule_changes_the_key_of_a_drawn_task() -> None:
    task = CATALOGUE["everyday_capitals"]

    def draw(count: int, seed: int) -> list[Question]:
        return [replace(question, match="first_line") for question in FAMILIES[0].draw(count, seed)]

    assert task_version_key(replace(task, bundled=draw)) != task_version_key(task)


def test_a_task_may_name_a_family_of_its_own(tmp_path: Path) -> None:
    def item(row: Row) -> PlainText:
        return PlainText(text=row["text"], family=row["text"][0])

    task = Task(
        name="mine",
        version=1,
        tests="a",
        source="b",
        prompt_reason="c",
        metric="perplexity",
        item=item,
    )
    items = task_items(task, data=write(tmp_path, [{"text": "x y"}, {"text": "z"}]))
    assert [item.family for item in items] == ["x", "z"]
