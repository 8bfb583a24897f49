import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from made_results import made_change, made_result, some
from rich.console import Console
from tiny_models import save_tiny_model

from secura.cli.app import run
from secura.cli.exit_codes import BELOW_RETENTION, DONE, USAGE
from secura.cli.forget_view import show_forgetting


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECURA_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("other"), seed=3)


@pytest.fixture(scope="module")
def easy_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions that a random model answers right: of a short and a long choice it takes the short one."""
    path = tmp_path_factory.mktemp("data") / "easy.jsonl"
    rows = [{"question": f"sky {n}?", "choices": ["z", "blue and grey is the sky"], "answer": 0} for n in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _forget(base: Path, tuned: Path, asked: Path, out: Path, *more: str) -> int:
    return run(["forget", str(base), str(tuned), "--retain", str(asked), "--out", str(out), *more])


def test_a_comparison_shows_the_table_and_leaves_a_page_and_a_json(
    llama_folder: Path, other_folder: Path, retain_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report"
    assert _forget(llama_folder, other_folder, retain_file, out) == DONE
    shown = capsys.readouterr().out
    for part in ("asked the base model 6 questions", "family 0", "family 1", "95% interval", "visible", "forget.html"):
        assert part in shown
    assert sorted(path.name for path in out.glob("[!.]*")) == ["forget.html", "forget.json"]
    stored = json.loads((out / "forget.json").read_text())
    assert stored["settings"]["retain"] == str(retain_file)
    assert (out / "forget.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    # A second report replaces the first.
    assert _forget(llama_folder, other_folder, retain_file, out, "--seed", "1") == DONE
    assert json.loads((out / "forget.json").read_text())["settings"]["seed"] == 1


@pytest.mark.parametrize(("limit", "code", "says"), [("0.9", DONE, "passes"), ("0.92", USAGE, "that takes 45")])
def test_a_gate_opens_where_enough_questions_show_that_enough_is_kept(
    limit: str, code: int, says: str, llama_folder: Path, easy_file: Path, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "report"
    assert _forget(llama_folder, llama_folder, easy_file, out, "--min-retention", limit) == code
    captured = capsys.readouterr()
    assert says in captured.out + captured.err
    assert out.exists() is (code == DONE)


@pytest.mark.ci
def test_a_model_that_lost_everything_ends_with_code_2_and_a_reason(
    llama_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The same questions with the other answer right: what the base gets right, its copy asked so gets wrong.
    rows = [{"question": f"sky {n}?", "choices": ["z", "blue and grey is the sky"], "answer": n % 2} for n in range(80)]
    asked = tmp_path / "asked.jsonl"
    asked.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tuned = tmp_path / "tuned"
    train = ["train", "--model", str(llama_folder), "--method", "full", "--out", str(tuned)]
    data = tmp_path / "data.jsonl"
    data.write_text(
        "".join(json.dumps({"prompt": row["question"], "target": row["choices"][1]}) + "\n" for row in rows)
    )
    rate = ["--set", "training.learning_rate=0.01", "--set", "training.steps=25"]
    assert run([*train, "--data", str(data), *rate]) == DONE
    capsys.readouterr()
    only_short = tmp_path / "short.jsonl"
    only_short.write_text("".join(json.dumps(row) + "\n" for row in rows if row["answer"] == 0))
    assert _forget(llama_folder, tuned, only_short, tmp_path / "report", "--min-retention", "0.9") == BELOW_RETENTION
    shown = capsys.readouterr().out
    assert "Broken: questions" in shown
    assert "gate at 90%: fails: kept 0.0% of what the base knew" in shown


def test_tasks_are_named_with_commas_or_again_and_again(
    llama_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["forget", str(llama_folder), str(llama_folder), "--count", "3", "--out", str(tmp_path / "out")]
    assert run([*command, "--tasks", "older,road", "--tasks", "ages"]) == DONE
    shown = capsys.readouterr().out
    assert [name in shown for name in ("older", "road", "ages")] == [True] * 3


@pytest.mark.slow
def test_without_out_the_report_is_named_for_the_tuned_model(
    llama_folder: Path, retain_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tuned = save_tiny_model(tmp_path / "runs" / "mine" / "model")
    for _ in range(2):
        assert run(["forget", str(llama_folder), str(tuned), "--retain", str(retain_file)]) == DONE
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["forget-mine", "forget-mine-2", "mine"]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--min-retention", "1.5"], "--min-retention is 1.5"),
        (["--confidence", "95"], "--confidence is 95.0"),
        (["--count", "0"], "--count is 0"),
        (["--tasks", "oldr"], "'oldr' is no task; the nearest are"),
        (["--retain", "nowhere.jsonl"], "no such file"),
        (["--out", "{file}"], "is a file"),
    ],
)
def test_wrong_usage_is_exit_code_3_with_one_line(
    more: list[str], says: str, llama_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    filled = [part.format(file=tmp_path / "file") for part in more]
    assert run(["forget", str(llama_folder), str(llama_folder), *filled]) == USAGE
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.slow
def test_help_answers_without_importing_torch(tmp_path: Path) -> None:
    script = tmp_path / "secura"  # `secura/__init__.py` looks at the command's name
    script.write_text(
        "import sys\nfrom secura.cli.app import run\nsys.exit(run(['forget', '--help']) or 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for option in ("--tasks", "--retain", "--data-dir", "--min-retention", "--confidence", "--fresh"):
        assert option in done.stdout


def _shown(width: int, *changes) -> str:
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    show_forgetting(console, made_result(*changes), [Path("forget.html")])
    return console.export_text()


def test_the_table_fits_80_columns_with_the_clearest_loss_on_top() -> None:
    shown = _shown(
        80, made_change("ages", some(50, 200), some(50, 200)), made_change("true_homes", some(200, 200), some(9, 200))
    )
    rows = [line for line in shown.splitlines() if line.startswith(("true_homes", "ages"))]
    assert rows[0].startswith("true_homes 100.0%  4.5%      −95.5 −98.0 to −91.1 worse         200")
    assert rows[1].startswith("ages")


def test_names_with_brackets_are_shown_as_they_are() -> None:
    shown = _shown(120, made_change("[red]odd[/red]", some(30, 30), some(0, 30), prompt="[bold]what[/bold]"))
    assert "[red]odd[/red]" in shown
    assert "[bold]what[/bold]" in shown


def test_flips_are_counted_by_task_and_by_kind_of_answer() -> None:
    shown = _shown(
        100,
        made_change("sums", [1.0, 1.0, 0.0] * 10, [0.0, 1.0, 1.0] * 10, answer="12"),
        made_change("homes", some(20, 20), some(15, 20), answer="Veldo"),
    )
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert "task number word" in lines
    assert "sums 10 / 10" in lines
    assert "homes 5 / 0" in lines
    assert "all 10 / 10 5 / 0" in lines


def test_long_choices_are_shown_where_they_differ() -> None:
    long = "a choice that goes on for longer than there is room, " * 4
    shown = _shown(
        300, made_change("ages", some(30, 30), some(0, 30), metric="accuracy", answer=long + "red", given=long + "blue")
    )
    assert "red  tuned: …" in shown
    assert "there is room, blue" in shown
