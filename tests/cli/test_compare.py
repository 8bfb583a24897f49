import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from engine_jobs import becomes_true
from in_this_process import InThisProcess
from peft_results import peft_result

from secura.cli.app import DONE, FAILED, USAGE, run
from secura.experiments.comparison.engines import choice
from secura.experiments.comparison.runs.record_files import read_records


@pytest.fixture
def grid(llama_folder: Path, rows_file: Path, retain_file: Path, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    settings = {
        "name": "tiny",
        "base": {"training.steps": 1, "training.batch_size": 4, "retention.path": str(retain_file)},
        "models": [{"path": str(llama_folder), "label": "llama"}],
        "methods": ["lora", "dora"],
        "tasks": [{"name": str(rows_file), "label": "sky"}],
    }
    path.write_text(yaml.safe_dump(settings))
    return path


def test_a_dry_run_lists_the_runs_and_writes_nothing(
    grid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["compare", str(grid), "--out", str(tmp_path / "out"), "--dry-run", "--set", "seeds=[0, 1]"]) == DONE
    said = capsys.readouterr().out
    assert said.count("left    tiny/") == 4
    assert "4 runs: 0 done, 0 failed, 4 left" in said
    assert not (tmp_path / "out").exists()


def test_a_grid_is_carried_out_shown_and_not_repeated(
    grid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "make_engine", lambda *_, **__: InThisProcess())
    out = tmp_path / "out"
    arguments = ["compare", "run", str(grid), "--out", str(out)]
    assert run(arguments) == DONE
    said = capsys.readouterr().out
    assert "2/2 done   tiny/" in said
    assert "2 of 2 runs are done" in said
    times = [record.created_at for record in read_records(out)]
    assert run(arguments) == DONE
    assert [record.created_at for record in read_records(out)] == times
    capsys.readouterr()
    assert run(["compare", "table", str(out)]) == DONE
    table = capsys.readouterr().out
    assert "new task: questions answered right" in table
    assert "lora" in table
    assert "dora" in table
    assert "sky" in table


def test_a_failed_run_is_told_of_and_ends_the_command_with_1(
    grid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "make_engine", lambda *_, **__: InThisProcess())
    out = tmp_path / "out"
    broken = ["compare", str(grid), "--out", str(out), "--set", "base.data.max_length=2", "--set", "methods=[lora]"]
    assert run(broken) == FAILED
    said = capsys.readouterr().out
    assert "failed tiny/lora-sky-0-" in said
    assert f"1 failed, and say why in {out}/tiny/results" in said
    assert run([*broken, "--no-retry-failed"]) == FAILED
    assert not (out / "tiny" / "results" / "failed").exists()
    assert run(["compare", "table", str(out)]) == DONE
    assert "failed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["compare", "nothing.yaml"], "no such configuration file"),
        (["compare", "{grid}", "--workers", "0"], "--workers is 0"),
        (["compare", "{grid}", "--set", "methods=[loraa]"], "unknown method 'loraa'"),
        (["compare", "{grid}", "--engine", "moon"], "moon"),
        (["compare", "table", "nowhere"], "nowhere: no such folder"),
        (["compare", "import", "nowhere", "--into", "x"], "nowhere: no such file or folder"),
    ],
)
def test_wrong_usage_is_one_line(
    arguments: list[str], says: str, grid: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(grid.parent)
    assert run([part.format(grid=grid) for part in arguments]) == USAGE
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_pefts_results_are_imported_and_queried(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "lora--tiny.json"
    source.write_text(json.dumps(peft_result("lora/tiny")))
    assert run(["compare", "import", str(source), "--into", str(tmp_path / "out")]) == DONE
    assert "1 results of PEFT are in" in capsys.readouterr().out
    sql = "select label, gain_after from runs"
    assert run(["compare", "table", str(tmp_path / "out"), "--sql", sql, "--csv", str(tmp_path / "a.csv")]) == DONE
    assert "lora/tiny" in capsys.readouterr().out
    assert (tmp_path / "a.csv").read_text() == '"label","gain_after"\n"lora/tiny",0.48\n'
    assert run(["compare", "table", str(tmp_path / "out"), "--sql", "select nothing"]) == USAGE
    assert capsys.readouterr().err.startswith("secura: --sql: ")


@pytest.mark.slow
def test_ctrl_c_ends_the_runs_and_the_same_command_goes_on(tmp_path: Path) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text(
        "name: stopped\nmethods: [lora]\ntasks: [own_things]\nseeds: [0, 1, 2]\n"
        "base: {training.steps: 40, training.save_every: 10, retention.per_family: 2, data.test_rows: 8}\n"
    )
    out = tmp_path / "out"
    command = [sys.executable, "-m", "secura", "compare", str(grid), "--out", str(out), "--workers", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    logs = out / "stopped" / "runs"
    assert becomes_true(lambda: len(list(logs.glob("*/checkpoint-*"))) > 1, 300)
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=90)
    assert process.returncode == FAILED
    assert "stopped by Ctrl-C; the same command continues" in said
    assert len(list((out / "stopped").glob("results/*.json"))) < 3
    assert subprocess.run(command, check=False, capture_output=True).returncode == DONE
    assert [record.status for record in read_records(out)] == ["success"] * 3
