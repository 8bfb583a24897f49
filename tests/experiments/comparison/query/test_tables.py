import csv
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from secura.errors import ConfigError, DataError
from secura.evaluation.spectra import Spectrum
from secura.evaluation.tally import Tally
from secura.experiments.comparison.grid.grid_run import GridRun
from secura.experiments.comparison.query import tables as query_tables
from secura.experiments.comparison.query.tables import Tables
from secura.experiments.comparison.runs.comparison_run import ComparisonRun, write_declaration
from secura.experiments.comparison.runs.record import Cost, RunRecord, SequenceRecord
from secura.experiments.comparison.runs.record_files import write_record

RUN = RunRecord(
    name="a",
    grid="g",
    label="LoRA",
    model="bundled",
    task="rivers",
    seed=0,
    learning_rate=1e-3,
    status="success",
    gain=Tally.of_totals(asked=50, before=5, after=40),
    knowledge={
        "birds": Tally(asked=20, before=16, after=10, lost=8),
        "fish": Tally.of_totals(asked=20, before=16, after=16),
    },
    cost=Cost(trainable_weights=10, training_seconds=2.5, peak_memory_mb=100.0),
    settings={"method": {"name": "lora"}, "training": {"steps": 7}},
)
SEQUENCE = replace(
    RUN,
    name="s",
    task="sequence",
    gain=None,
    sequence=SequenceRecord(tasks=["a", "b"], scores=[[0.0, 0.1], [0.8, 0.2], [0.4, 0.6]], knowledge=[0.8, 0.8, 0.6]),
    gradient_norms=[(1, 0.5)],
    spectra=[Spectrum(layer="q", before=[2.0, 1.0], after=[3.0, 1.0], norm_before=2.2, norm_after=3.2)],
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for record in (RUN, SEQUENCE, replace(RUN, name="b", seed=1, status="failed", error="NaN", gain=None)):
        write_record(tmp_path, record)
    settings = {"training": {"seed": 2, "learning_rate": 1e-3, "steps": 7}, "method": {"name": "lora"}}
    about = {"grid": "g", "label": "LoRA", "model": "bundled", "task": "rivers"}
    declared = GridRun(kind="train", settings=settings, versions={}, **about)
    write_declaration(ComparisonRun(declared=declared, folder=tmp_path))
    return tmp_path


def test_runs_are_rows_with_what_is_asked_of_them_most(folder: Path) -> None:
    tables = Tables(folder)
    sql = "select gain_before, gain_after, knowledge_kept, steps, seconds, method from runs where name = 'a'"
    assert tables.query(sql).rows == [(0.1, 0.8, 0.75, 7, 2.5, "lora")]  # 2 gained make up for nothing
    assert tables.query("select just_learned, at_the_end from runs where name = 's'").rows == [(0.7, 0.5)]


def test_failed_and_missing_runs_are_rows_too(folder: Path) -> None:
    found = Tables(folder).query(
        "select seed, status, error, gain_after from runs where status != 'success' order by 1"
    )
    assert found.rows == [(1, "failed", "NaN", None), (2, "missing", None, None)]


def test_families_scores_gradients_and_spectra_are_tables(folder: Path) -> None:
    tables = Tables(folder)
    assert tables.query("select sum(after), sum(lost) from knowledge where name = 'a'").rows == [(26, 8)]
    assert tables.query("select score from scores where stage = 1 and task = 'b' and after_task = 'a'").rows == [(0.2,)]
    assert tables.query("select * from gradient_norms").rows == [("s", 1, 0.5)]
    assert tables.query("select after from spectra where layer = 'q' and place = 1").rows == [(3.0,)]


@pytest.mark.parametrize("sql", ["selec 1", "select labl from runs", "select 1 from\nnowhere"])
def test_wrong_sql_is_one_line(sql: str, folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--sql: ") as caught:
        Tables(folder).query(sql)
    assert "\n" not in str(caught.value)


def test_an_answer_is_written_as_csv_and_as_parquet(folder: Path) -> None:
    tables = Tables(folder)
    for name in ("it's.csv", "all.parquet"):
        tables.export("select name, seed from runs where gain_after is not null;", folder / "tables" / name)
    with (folder / "tables" / "it's.csv").open() as file:
        assert list(csv.reader(file)) == [["name", "seed"], ["a", "0"]]
    assert duckdb.sql(f"select * from '{folder}/tables/all.parquet'").fetchall() == [("a", 0)]
    assert sorted(path.name for path in (folder / "tables").iterdir()) == ["all.parquet", "it's.csv"]
    with pytest.raises(ConfigError, match=r"\.csv or \.parquet"):
        tables.export("select 1", folder / "table.xlsx")


@pytest.mark.parametrize(
    "sql",
    [
        "select * from read_text('{secret}')",
        "select * from '{secret}'",
        "select * from glob('{folder}/*')",
        "copy runs to '{folder}/out.csv'",
        "attach '{folder}/other.db'",
        "install httpfs",
        "export database '{folder}/all'",
        "set enable_external_access = true",
        "set lock_configuration = false",
        "reset enable_external_access",
        "select * from records",
    ],
)
def test_a_query_reaches_no_file_and_no_setting(sql: str, folder: Path) -> None:
    (folder / "secret.csv").write_text("a\n1\n")
    before = sorted(folder.rglob("*"))
    with pytest.raises(ConfigError, match=r"^--sql: "):
        Tables(folder).query(sql.format(secret=folder / "secret.csv", folder=folder))
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("way", ["query", "export"])
def test_a_query_that_does_not_end_is_stopped(way: str, folder: Path) -> None:
    endless = "with recursive n as (select 1 as a union all select a + 1 from n) select count(*) from n where a < 0"
    tables = Tables(folder, seconds=0.2)
    with pytest.raises(ConfigError, match=r"no answer within 0\.2 seconds"):
        tables.query(endless) if way == "query" else tables.export(endless, folder / "all.csv")
    assert tables.query("select 1").rows == [(1,)]


@pytest.mark.parametrize("way", ["query", "export"])
@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("select * from range(3000000000)", "more than 1,000,000 rows"),
        ("select count(*) from (select random() r from range(1000000000) order by r limit 500000000)", "Memory"),
    ],
)
def test_a_query_fills_neither_memory_nor_disk(
    way: str, sql: str, says: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(query_tables, "_LOCKED", ("memory_limit = '50MB'", *query_tables._LOCKED[:-2], "threads = 1"))
    before = sorted(folder.rglob("*"))
    tables = Tables(folder)
    with pytest.raises(ConfigError, match=says):
        tables.query(sql) if way == "query" else tables.export(sql, folder / "all.csv")
    assert sorted(folder.rglob("*")) == before


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no run"):
        Tables(tmp_path)
