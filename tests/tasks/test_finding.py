from pathlib import Path

import pytest

from secura.errors import ConfigError
from secura.tasks import finding
from secura.tasks.catalogue import CATALOGUE
from secura.tasks.finding import GROUPS, find_tasks

YAML = "name: {name}\nrows: org/rows\nmetric: exact_match\n"


def names(*wanted: str) -> list[str]:
    return [task.name for task in find_tasks(wanted)]


def test_tasks_are_found_in_the_order_named_each_once() -> None:
    assert names("piqa", " logiqa", "piqa") == ["piqa", "logiqa"]
    assert names("boolq", "mc")[:2] == ["boolq", "logiqa"]
    assert len(names("boolq", "mc")) == len(GROUPS["mc"])
    assert find_tasks(["piqa"])[0] is CATALOGUE["piqa"]
    assert find_tasks([]) == []


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_stands_for_its_tasks(group: str) -> None:
    assert names(group) == list(GROUPS[group])


def test_groups_divide_the_catalogue() -> None:
    parts = ("mc", "generation", "text", "bbh", "everyday", "knowledge", "new_tasks")
    assert sorted(name for part in parts for name in GROUPS[part]) == sorted(CATALOGUE)
    assert GROUPS["world"] == GROUPS["knowledge"] + GROUPS["new_tasks"]
    assert GROUPS["all"] == tuple(CATALOGUE)
    assert not set(GROUPS) & set(CATALOGUE)
    assert [len(GROUPS[part]) for part in parts] == [12, 9, 2, 27, 22, 13, 20]


def test_every_group_is_documented_with_its_tasks() -> None:
    documented = " ".join((finding.__doc__ or "").split())
    for group in GROUPS:
        assert f"- `{group}`" in documented
    for group in ("mc", "generation", "text"):
        assert ", ".join(GROUPS[group]) in documented


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("logicqa", "'logicqa' is no task; the nearest are logiqa, logiqa2"),
        ("gsm", "gsm8k"),
        ("bhb", "the nearest are bbh"),
        ("winogrand", "winogrande"),
        ("xyzzy", "groups of tasks are mc, generation, text, bbh, everyday"),
        ("", "groups of tasks are mc"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(typed: str, says: str) -> None:
    with pytest.raises(ConfigError) as raised:
        find_tasks([typed])
    assert says in str(raised.value)
    assert "your own, give the path of its .yaml or .py file" in str(raised.value)


def test_a_users_file_is_found_among_the_others(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(YAML.format(name="mine"))
    assert names("piqa", str(path), str(path), "boolq") == ["piqa", "mine", "boolq"]


@pytest.mark.parametrize("suffix", [".yaml", ".yml", ".py"])
def test_a_missing_file_is_said_to_be_missing(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(ConfigError, match="no such file; a task of your own"):
        find_tasks([str(tmp_path / f"gone{suffix}")])


def test_two_tasks_of_one_name_are_refused(tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text(YAML.format(name="mine"))
    second.write_text(YAML.format(name="mine"))
    with pytest.raises(ConfigError, match=r"second\.yaml: there is already a task called 'mine'"):
        find_tasks([str(first), str(second)])
    first.write_text(YAML.format(name="piqa"))
    with pytest.raises(ConfigError, match=r"first\.yaml: there is already a task called 'piqa'"):
        find_tasks([str(first)])
