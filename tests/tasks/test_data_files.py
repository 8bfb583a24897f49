import gzip
import json
from pathlib import Path

import datasets
import pytest

from secura.errors import DataError
from secura.tasks.data_files import read_items
from secura.tasks.question import Question

ROWS = [{"prompt": "a?", "target": "b"}, {"prompt": "c?", "target": "d\u2028e"}]
ITEMS = [Question(prompt="a?", answer="b"), Question(prompt="c?", answer="d\u2028e")]


def test_lines_an_array_and_gzip_read_alike(tmp_path: Path) -> None:
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n\n"
    (tmp_path / "rows.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "rows.json").write_text(json.dumps(ROWS, indent=1), encoding="utf-8")
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    for name in ("rows.jsonl", "rows.json", "rows.jsonl.gz"):
        assert read_items(str(tmp_path / name)) == ITEMS


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is empty"),
        ("[]", "is empty"),
        ('{"prompt": "a?", "target": "b"}\n\n{"prompt": "a?"}\n', "line 3: has 'prompt' but lacks"),
        ('{"prompt": "a?", "target": "b"}\n{"prompt": \n', "line 2: is not JSON"),
        ('[{"prompt": "a?", "target": "b"}, 7]', "row 2: holds 7"),
        ('{"prompt": "a?", "target": "b"}\n{"text": "c"}\n', "line 2: mixes plain text with questions"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_by_name_and_line(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError) as raised:
        read_items(str(path))
    assert str(path) in str(raised.value)
    assert says in str(raised.value)


@pytest.mark.parametrize("name", ["missing.jsonl", "./missing", "/no/such/folder/rows.jsonl"])
def test_a_missing_file_is_said_to_be_missing(name: str) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_items(name)


def test_bytes_that_are_not_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not UTF-8"):
        read_items(str(path))


@pytest.mark.parametrize(
    ("source", "asked"),
    [
        ("org/name", ("org/name", None, "train")),
        ("org/name:validation", ("org/name", None, "validation")),
        ("org/name:main:test", ("org/name", "main", "test")),
    ],
)
def test_a_hub_data_set_is_asked_for_by_name_configuration_and_split(
    source: str, asked: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def load_dataset(name: str, configuration: str | None, *, split: str) -> datasets.Dataset:
        seen.append((name, configuration, split))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert read_items(source) == ITEMS
    assert seen == [asked]


def test_a_hub_data_set_that_cannot_be_had_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: object, **__: object) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match=r"org/name: no such file here.*no route to host"):
        read_items("org/name")
