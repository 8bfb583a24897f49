from collections.abc import Callable
from pathlib import Path

import pytest

from secura.errors import ConfigError, DataError
from secura.experiments.data import hold_out, read_mixed, read_retention, read_task
from secura.tasks.finding import find_tasks
from secura.tasks.question import PlainText, Question
from secura.tasks.task_items import task_items

ITEMS = [Question(prompt=f"{number // 2}?", answer=str(number)) for number in range(40)]  # each prompt twice


def test_no_prompt_is_both_trained_on_and_held_out() -> None:
    rest, held = hold_out(ITEMS, share=0.25, at_most=100, seed=0)
    assert len(held) == 10
    assert sorted(rest + held) == list(range(40))
    assert not {ITEMS[index].prompt for index in rest} & {ITEMS[index].prompt for index in held}


def test_the_seed_decides_which_rows_are_held_out() -> None:
    first, again, other = (hold_out(ITEMS, share=0.25, at_most=100, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("count", "share", "at_most", "held_out"),
    [(1, 0.1, 9, 0), (2, 0.1, 9, 1), (30, 0.1, 9, 3), (30, 0.5, 9, 9), (30, 0.0, 9, 0), (30, 0.5, 0, 0)],
)
def test_how_many_rows_are_held_out(count: int, share: float, at_most: int, held_out: int) -> None:
    items = [PlainText(text=str(number)) for number in range(count)]
    assert len(hold_out(items, share=share, at_most=at_most, seed=0)[1]) == held_out


def _rows(folder: Path, name: str, count: int) -> None:
    lines = (f'{{"prompt": "{name} {number}?", "target": "{number}"}}\n' for number in range(count))
    (folder / name).write_text("".join(lines))


def test_a_task_of_the_catalogue_is_learned_from_its_train_rows_and_measured_on_its_test_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _rows(tmp_path, "gsm8k.train.jsonl", 5)
    _rows(tmp_path, "gsm8k.test.jsonl", 9)
    monkeypatch.setenv("SECURA_DATA", str(tmp_path))
    data = read_task("gsm8k", bundled_model=False, seed=0, test_rows=4)
    (task,) = find_tasks(["gsm8k"])
    assert (data.name, data.suggested_steps) == ("gsm8k", None)
    assert data.train == task_items(task, split="train")
    assert len(data.train) == 5
    assert data.test == task_items(task, count=4)
    assert isinstance(data.train[0], Question)
    assert data.train[0].prompt == "Question: gsm8k.train.jsonl 0?\nAnswer:"


def test_knowledge_may_be_named_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _rows(tmp_path, "gsm8k.train.jsonl", 5)
    _rows(tmp_path, "gsm8k.test.jsonl", 9)
    monkeypatch.setenv("SECURA_DATA", str(tmp_path))
    items = read_retention("gsm8k, homes", bundled_model=False, per_family=3, seed=0)
    assert [item.family for item in items] == ["gsm8k"] * 3 + ["homes"] * 3


def test_test_rows_of_the_users_own_stand_for_the_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _rows(tmp_path, "gsm8k.train.jsonl", 5)
    _rows(tmp_path, "own.jsonl", 3)
    monkeypatch.setenv("SECURA_DATA", str(tmp_path))
    own = str(tmp_path / "own.jsonl")
    test = read_task("gsm8k", bundled_model=False, seed=0, test_rows=200, test_path=own).test
    assert test is not None
    assert {item.prompt for item in test if isinstance(item, Question)} == {
        f"own.jsonl {number}?" for number in range(3)
    }


def test_a_task_of_the_users_own_can_be_learned(tmp_path: Path) -> None:
    _rows(tmp_path, "train.jsonl", 5)
    _rows(tmp_path, "test.jsonl", 3)
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nmetric: exact_match\nrows: test.jsonl\ntrain_rows: train.jsonl\n")
    data = read_task(str(path), bundled_model=False, seed=0, test_rows=200)
    assert data.test is not None
    assert (data.name, len(data.train), len(data.test)) == ("mine", 5, 3)


def test_a_file_that_is_called_like_a_task_is_read_as_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _rows(tmp_path, "gsm8k", 5)
    monkeypatch.chdir(tmp_path)
    data = read_task("gsm8k", bundled_model=False, seed=0, test_rows=200)
    assert data.test is None
    assert isinstance(data.train[0], Question)
    assert data.train[0].prompt == "gsm8k 0?"


def test_a_file_of_several_tasks_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("from secura.tasks.catalogue import CATALOGUE\nTASKS = [CATALOGUE['piqa'], CATALOGUE['boolq']]\n")
    with pytest.raises(ConfigError, match=r"mine\.py holds 2 tasks, but a run learns only one"):
        read_task(str(path), bundled_model=False, seed=0, test_rows=200)


def test_retention_mixes_tasks_groups_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _rows(tmp_path, "gsm8k.test.jsonl", 9)
    _rows(tmp_path, "own.jsonl", 5)
    monkeypatch.setenv("SECURA_DATA", str(tmp_path))
    items = read_retention(f"gsm8k, {tmp_path / 'own.jsonl'},homes", bundled_model=False, per_family=2, seed=0)
    assert [item.family for item in items] == ["gsm8k"] * 2 + ["homes"] * 2 + ["questions"] * 2


def test_rows_mixed_in_are_all_there_are_of_files_and_tasks(tmp_path: Path) -> None:
    _rows(tmp_path, "general.jsonl", 5)
    general = str(tmp_path / "general.jsonl")
    (mixed,) = read_mixed({general: 0.2}, bundled_model=False, seed=0)
    assert (mixed.name, mixed.share, len(mixed.rows)) == (general, 0.2, 5)
    with pytest.raises(ConfigError, match=r"data\.mix add up to 1, which leaves nothing for data\.path"):
        read_mixed({general: 0.5, "other": 0.5}, bundled_model=False, seed=0)


@pytest.mark.parametrize(
    ("read", "says"),
    [
        (
            lambda: read_task("yonger", bundled_model=True, seed=0, test_rows=5),
            "the nearest tasks are younger, youngest",
        ),
        (lambda: read_retention("homs,sums", bundled_model=False, per_family=2, seed=0), "the nearest tasks are homes"),
        (lambda: read_retention("every_day", bundled_model=False, per_family=2, seed=0), "everyday"),
        (
            lambda: read_mixed({"qqqqq": 0.2}, bundled_model=False, seed=0),
            "qqqqq: no file, folder or task has this name",
        ),
    ],
)
def test_a_name_of_nothing_is_answered_with_the_nearest_tasks_and_without_a_network(
    read: Callable[[], object], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("secura.tasks.data_files.hub_rows", no_network)
    with pytest.raises(DataError, match=says) as raised:
        read()
    assert "A hub data set is named org/name." in str(raised.value)
