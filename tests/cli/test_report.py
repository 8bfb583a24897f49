from pathlib import Path

import pytest
from made_records import made_record, write_records

from secura.cli.app import run
from secura.experiments.comparison.grid.grid_run import GridRun
from secura.experiments.comparison.runs.comparison_run import ComparisonRun, write_declaration
from secura.one_writer import one_writer


def test_a_report_is_written_where_it_is_wanted_and_says_what_it_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_records(tmp_path / "results of mine", [made_record(seed=seed) for seed in range(2)])
    page, figures = tmp_path / "pages" / "mine.html", tmp_path / "pictures"
    assert run(["report", str(folder), "--out", str(page), "--figures", str(figures)]) == 0
    assert "performance: 2 done, 0 failed, 0 missing" in capsys.readouterr().out
    assert 'href="../results%20of%20mine/performance/results/' in page.read_text()
    assert 'href="../pictures/performance-pareto.svg"' in page.read_text()
    assert (figures / "performance-pareto.png").is_file()
    assert run(["report", str(folder)]) == 0
    assert (folder / "report.html").is_file()


def test_a_planned_run_without_a_record_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_records(tmp_path, [made_record()])
    training = {"seed": 3, "learning_rate": 1e-3, "steps": 2}
    declared = GridRun(
        grid="performance",
        kind="train",
        label="SECURA",
        model="bundled",
        task="own_things",
        settings={"training": training},
        versions={},
    )
    write_declaration(ComparisonRun(declared=declared, folder=tmp_path))
    assert run(["report", str(tmp_path)]) == 0
    assert "performance: 1 done, 0 failed, 1 missing" in capsys.readouterr().out
    page = (tmp_path / "report.html").read_text()
    assert "SECURA on own_things, seed 3" in page
    assert '<td class="missing">missing' in page


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["report", "nowhere"], "no such folder"),
        (["report", "."], "holds no result"),
        (["report", ".", "--out", "."], "is a folder; name a file"),
        (["report", ".", "--figures", "file"], "is a file; name a folder"),
        (["card", "."], "holds no finished run"),
    ],
)
def test_what_cannot_be_shown_is_said_in_one_line(
    arguments: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert run(arguments) == 3
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1


def test_a_comparison_whose_folder_another_process_writes_is_not_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_records(tmp_path / "results", [made_record()])
    with one_writer(folder):
        assert run(["report", str(folder)]) == 3
        assert f"another process is writing into {folder}" in capsys.readouterr().err
        assert not (folder / "report.html").exists()
        assert not (folder / "figures").exists()
        elsewhere = ["--out", str(tmp_path / "page" / "mine.html"), "--figures", str(tmp_path / "pictures")]
        assert run(["report", str(folder), *elsewhere]) == 0
    assert run(["report", str(folder)]) == 0
    assert (folder / "report.html").is_file()
