import json
import subprocess
import sys
from pathlib import Path

import pytest

from secura.cli.app import DONE, FAILED, USAGE, run
from secura.experiments import asking


def test_help_answers_without_importing_torch(tmp_path: Path) -> None:
    script = tmp_path / "secura"
    code = "import sys\nfrom secura.cli.app import run\ncode = run(['eval', '--help'])\n"
    script.write_text(code + "sys.exit(code or 'torch' in sys.modules)")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--lm-eval" in done.stdout


def test_the_bundled_model_is_scored_on_what_it_knows_where_nothing_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["eval", "--count", "3", "--out", str(tmp_path)]) == DONE
    shown = capsys.readouterr().out
    for part in ("kinds", "homes", "100.0%", "29.2 to 100.0", "20.0%", "chance", "evaluation.json"):
        assert part in shown
    stored = json.loads((tmp_path / "evaluation.json").read_text())
    assert [task["value"] for task in stored["tasks"]] == [1.0] * 13


def test_tasks_are_named_by_commas_or_one_by_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["eval", "--tasks", "kinds, homes", "--tasks", "older", "--count", "2", "--batch-size", "1"]
    assert run([*arguments, "--out", str(tmp_path)]) == DONE
    capsys.readouterr()
    stored = json.loads((tmp_path / "evaluation.json").read_text())
    assert [task["task"] for task in stored["tasks"]] == ["kinds", "homes", "older"]
    assert stored["settings"]["batch_size"] == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--tasks", "kindz"], "the nearest are kinds"),
        (["--tasks", "kinds", "--batch-size", "many"], "--batch-size is 'many'"),
        (["--model", "nowhere/at/all", "--tasks", "kinds"], "no such folder"),
        (["--tasks", "kinds", "--adapter", "nowhere/at/all"], "no such folder"),
        (["--tasks", "gsm8k", "--data-dir", "nowhere"], "--data-dir nowhere is not a folder"),
        (["--tasks", "kinds", "--lm-eval", "gsm8k", "--export-lm-eval", "there"], "leave it out"),
    ],
)
def test_wrong_usage_is_exit_code_3_with_one_line(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["eval", *arguments, "--out", str(tmp_path / "out")]) == USAGE
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_ctrl_c_is_exit_code_1_and_says_what_was_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = asking.score_task

    def interrupted(model: object, tokenizer: object, task: object, *rest: object, **named: object) -> object:
        if getattr(task, "name", "") == "homes":
            raise KeyboardInterrupt
        return original(model, tokenizer, task, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(asking, "score_task", interrupted)
    arguments = ["eval", "--tasks", "kinds,homes", "--count", "2", "--out", str(tmp_path)]
    assert run(arguments) == FAILED
    assert f"1 finished, their scores are in {tmp_path / 'evaluation.json'}" in capsys.readouterr().err


def test_an_export_says_how_to_run_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["eval", "--tasks", "kinds,homes", "--count", "2", "--export-lm-eval", str(tmp_path)]) == DONE
    assert f"lm_eval --include_path {tmp_path} --tasks secura_kinds,secura_homes" in capsys.readouterr().out
    assert (tmp_path / "secura_homes.yaml").is_file()
