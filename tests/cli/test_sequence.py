from pathlib import Path

import pytest

from secura.cli.app import run
from secura.cli.exit_codes import USAGE
from secura.one_writer import one_writer

FEW = ["training.steps=3", "data.test_rows=4", "data.train_rows=20", "retention.per_family=1"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "seq.yaml"
    path.write_text("tasks: [different_homes, two_steps]\n")
    return path


def sequence(file: Path, out: Path, *more: str) -> int:
    settings = [part for setting in FEW for part in ("--set", setting)]
    return run(["sequence", str(file), "--out", str(out), *settings, *more])


def test_a_sequence_is_learned_shown_logged_and_undone(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert sequence(file, out) == 0
    shown = capsys.readouterr().out
    assert "2/2 two_steps: learned" in shown
    assert "average accuracy" in shown
    rows = [line.split() for line in shown.splitlines() if line.startswith(("different_homes ", "two_steps "))]
    assert [len(row) for row in rows] == [7, 7]  # 80 columns hold each in one line, what was kept and at least included
    assert run(["sequence", "log", str(out)]) == 0
    assert "in the ledger: different_homes, two_steps" in capsys.readouterr().out
    with one_writer(out):
        assert run(["sequence", "undo", str(out), "two_steps"]) == USAGE
    assert "another process is writing into" in capsys.readouterr().err
    assert not list(out.glob("without-*"))
    assert run(["sequence", "undo", str(out), "two_steps"]) == 0
    assert "without two_steps" in capsys.readouterr().out
    assert run(["sequence", "bisect", str(out), "--family", "homes", "--questions", "4"]) == 0
    assert "homes was not broken" in capsys.readouterr().out
    assert sequence(file, out) == 0  # everything is done, so nothing is learned again
    assert "2 tasks, 2 of them done" in capsys.readouterr().out


@pytest.mark.ci
@pytest.mark.parametrize(("rate", "code", "says"), [("1e-9", 0, "passes: kept 100.0%"), ("0.3", 2, "fails: kept ")])
def test_the_gate_gives_the_verdict_that_the_other_commands_give(
    rate: str, code: int, says: str, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limit = ("--set", "retention.min_retention=0.75", "--set", f"training.learning_rate={rate}")
    assert sequence(file, tmp_path / "out", *limit, "--method", "lora") == code
    shown = capsys.readouterr().out
    assert f"gate at 75%: {says}" in shown
    assert "knowledge kept of the 13 answers that the base model has right: " in shown
    assert "% (95% interval " in shown


def test_a_gate_that_so_few_questions_cannot_open_is_refused_before_anything_is_learned(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sequence(file, tmp_path / "out", "--set", "retention.min_retention=0.8") == 3
    assert "13 questions cannot show at confidence 0.95 that 80% is kept" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_dry_run_writes_nothing(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sequence(file, tmp_path / "out", "--dry-run") == 0
    assert "nothing was trained" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nope.yaml"], "no such configuration file"),
        (["log", "nowhere"], "holds no sequence"),
        (["undo", "nowhere", "younger"], "holds no sequence"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["sequence", *arguments]) == 3
    shown = capsys.readouterr().err
    assert said in shown
    assert shown.count("\n") == 1


def test_an_unknown_setting_is_named_with_the_nearest(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sequence", str(file), "--set", "strategy.nmae=ewc"]) == 3
    assert "the nearest is strategy.name" in capsys.readouterr().err
