import gzip
import json
from pathlib import Path

import datasets
import pytest

from secura.errors import DataError
from secura.tasks.data_files import check_columns, folder_files, read_items, read_source
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


def test_a_damaged_gzip_file_is_named(tmp_path: Path) -> None:
    whole = gzip.compress(b'{"prompt": "a?", "target": "b"}' * 100)
    for damaged in (whole[:20], whole[:12] + bytes(8) + whole[20:], whole[:-8] + bytes(8)):
        (tmp_path / "rows.jsonl.gz").write_bytes(damaged)
        with pytest.raises(DataError, match=r"rows\.jsonl\.gz cannot be read: "):
            read_items(str(tmp_path / "rows.jsonl.gz"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is empty"),
        ("[]", "is empty"),
        pytest.param("[" * 100_000, "line 1: is not JSON (Nested too deeply)", id="nested"),
        pytest.param('{"prompt": ' + "9" * 5_000 + "}", "is not JSON (A whole number of too many digits", id="digits"),
        ('{"prompt": "a?", "target": "b"}\n\n{"prompt": "a?"}\n', "line 3: has 'prompt' but lacks"),
        ('{"prompt": "a?", "target": "b"}\n{"prompt": \n', "line 2: is not JSON"),
        ('[{"prompt": "a?", "target": "b"}, 7]', "line 1, row 2: holds 7"),
        ('\n[\n {"prompt": "a?",\n  "target": "b"},\n\n {"prompt": "a?"}\n]', "line 6, row 2: has 'prompt' but lacks"),
        ('[{"prompt": "a?", "target": "b"},\n {"prompt": }]', "line 2: is not JSON"),
        ('{"prompt": "a?", "target": "b"}\n{"text": "c"}\n', "line 2: mixes plain text with questions"),
        ('{\n "data": []\n}\n', "line 1: begins one JSON object over several lines; put the rows into an array"),
        (
            '{"prompt": "a?", "target": "b"}\n{"prompt": "a", "chosen": "b", "rejected": "c"}\n',
            "line 2: holds a preference",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_by_name_and_line(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError) as raised:
        read_items(str(path))
    assert str(path) in str(raised.value)
    assert says in str(raised.value)


@pytest.mark.parametrize("name", ["missing", "missing.jsonl", "./missing", "/no/such/folder/rows.jsonl"])
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
    monkeypatch.setattr("secura.tasks.hub_rows.check_hub_answers", lambda: None)

    def load_dataset(*_: object, **__: object) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match=r"org/name: no such file here.*no route to host"):
        read_items("org/name")


def test_tables_read_as_lines_do(tmp_path: Path) -> None:
    table = 'prompt,target\na?,b\nc?,"d\u2028e"\n'
    (tmp_path / "rows.csv").write_text(table, encoding="utf-8")
    (tmp_path / "rows.tsv").write_text(table.replace(",", "\t"), encoding="utf-8")
    (tmp_path / "semicolons.csv").write_text("\ufeff" + table.replace(",", ";").replace("\n", "\r\n"), encoding="utf-8")
    (tmp_path / "rows.csv.gz").write_bytes(gzip.compress(table.encode()))
    datasets.Dataset.from_list(ROWS).to_parquet(tmp_path / "rows.parquet")
    for name in ("rows.csv", "rows.tsv", "semicolons.csv", "rows.csv.gz", "rows.parquet"):
        assert read_items(str(tmp_path / name)) == ITEMS


def test_a_cell_stays_the_text_that_it_is(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(
        'question,choices,answer\nAgent?,"[""006"", ""007""]",007\nNo?,"[""a"", ""b""]",1\n', encoding="utf-8"
    )
    assert read_items(str(path)) == [
        Question(prompt="Agent?", answer="007", choices=("006", "007")),
        Question(prompt="No?", answer="b", choices=("a", "b")),
    ]
    path.write_text("prompt,target\nhow long?," + "x" * 200_000 + "\n", encoding="utf-8")
    (item,) = read_items(str(path))
    assert isinstance(item, Question)
    assert len(item.answer) == 200_000


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('prompt,target\n"a\nb",c\nd,e,f\n', "line 4: has 3 cells, but the first line names 2 columns"),
        ('prompt,target\na,b\n"c,d\n', "line 3: is not CSV"),
        ("prompt,target\na,b\n\nc,\n", "line 4: has 'prompt' but lacks"),
        ("prompt,target\n", "is empty"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_by_name_and_line(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError) as raised:
        read_items(str(path))
    assert says in str(raised.value)


def test_a_row_of_parquet_is_refused_by_its_number_and_a_damaged_file_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    datasets.Dataset.from_list([{"prompt": "a?", "target": "b"}, {"prompt": "a?", "target": " "}]).to_parquet(path)
    with pytest.raises(DataError, match=r"rows\.parquet, row 2: 'target' is empty"):
        read_items(str(path))
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"rows\.parquet cannot be read as a parquet file"):
        read_items(str(path))


def test_a_folder_is_read_split_by_split(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    with pytest.raises(DataError, match="a folder without data files"):
        read_items(str(folder))
    (folder / "README.md").write_text("about")
    (folder / "b.csv").write_text('prompt,target\nc?,"d\u2028e"\n', encoding="utf-8")
    (folder / "a.jsonl").write_text(json.dumps(ROWS[0]) + "\n", encoding="utf-8")
    assert read_items(str(folder)) == ITEMS
    with pytest.raises(DataError, match="no files of split 'test'; by their names, its splits are train"):
        read_items(str(folder), split="test")
    (folder / "a.jsonl.gz").write_bytes(gzip.compress((folder / "a.jsonl").read_bytes()))
    (folder / "a.jsonl").unlink()
    assert read_items(str(folder)) == ITEMS
    (folder / "a.jsonl.gz").rename(folder / "train.jsonl.gz")
    (folder / "b.csv").rename(folder / "test.csv")
    assert [path.name for path in folder_files(folder, "train")] == ["train.jsonl.gz"]
    assert read_items(str(folder), split="test") == ITEMS[1:]


def test_mapped_columns_are_read_and_a_missing_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("vraag,antwoord,id\na?,b,1\n", encoding="utf-8")
    read = read_source(str(path), columns={"prompt": "vraag", "completion": "antwoord"})
    assert (read.items, read.unused) == (ITEMS[:1], ("id",))
    with pytest.raises(DataError, match=r"line 2: .*data\.columns\.completion names 'reply', which no row so far has"):
        read_source(str(path), columns={"prompt": "vraag", "completion": "reply"})
    with pytest.raises(DataError, match=r"no column 'leader', which data\.columns\.system names; it has vraag"):
        read_source(str(path), columns={"prompt": "vraag", "completion": "antwoord", "system": "leader"})
    with pytest.raises(DataError, match="rows have no column 'propmt'; known are messages"):
        check_columns({"propmt": "vraag"})
