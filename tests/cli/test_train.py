import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from secura.cli.app import run
from secura.cli.exit_codes import BELOW_RETENTION, DONE, FAILED, USAGE

SMALL = ["--set", "training.steps=3", "--set", "training.batch_size=2", "--method", "lora"]


def _train(model: Path, data: Path, out: Path, *more: str) -> int:
    return run(["train", "--model", str(model), "--data", str(data), "--out", str(out), *SMALL, *more])


def test_a_run_shows_the_first_batch_the_table_and_the_flips(
    llama_folder: Path,
    rows_file: Path,
    retain_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = _train(llama_folder, rows_file, tmp_path / "out", "--retain", str(retain_file))
    shown = capsys.readouterr().out
    assert code == DONE
    learned = re.findall(r"⟦ (\w+)<eos>⟧", shown)
    assert len(learned) == 2  # a batch
    assert set(learned) <= {"blue", "grey", "red"}
    for part in (
        "step 3/3",
        "loss",
        "rate",
        "MB",
        "s left",
        "held out",
        "knowledge of",
        "kept",
        "at least",
        "gained",
        "family 0",
    ):
        assert part in shown
    report = json.loads((tmp_path / "out" / "retention.json").read_text())
    assert report["config"]["method"]["name"] == "lora"
    flips = report["retention"]["flips"]
    said = (
        f"{len(flips)} answers flipped from right to wrong" if flips else "nothing that was right before is wrong now"
    )
    assert said in shown
    assert shown.count("  right: ") == len(flips)


def test_a_dry_run_trains_nothing(
    llama_folder: Path, rows_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _train(llama_folder, rows_file, tmp_path / "out", "--dry-run") == DONE
    shown = capsys.readouterr().out
    assert "trainable weights" in shown
    assert "⟦" in shown
    assert not (tmp_path / "out").exists()


def test_print_config_prints_what_a_run_reads_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "--method", "dora", "--set", "training.steps=7", "--print-config"]) == DONE
    printed = capsys.readouterr().out
    path = tmp_path / "run.yaml"
    path.write_text(printed)
    assert run(["train", str(path), "--print-config"]) == DONE
    assert capsys.readouterr().out == printed


@pytest.mark.ci
def test_retention_below_the_wanted_share_is_exit_code_2(
    llama_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A random model prefers the short answer; it is then taught the long one.
    long, prompts = "blue and grey is the sky", [f"sky {number}?" for number in range(8)]
    data, retain = tmp_path / "data.jsonl", tmp_path / "retain.jsonl"
    data.write_text("".join(json.dumps({"prompt": each, "target": long}) + "\n" for each in prompts))
    asked = [{"question": each, "choices": ["z", long], "answer": "z"} for each in prompts]
    retain.write_text("".join(json.dumps(row) + "\n" for row in asked))
    more = [
        "--retain",
        str(retain),
        "--set",
        "training.learning_rate=0.01",
        "--set",
        "training.steps=40",
        "--method",
        "full",
    ]
    assert _train(llama_folder, data, tmp_path / "out", *more, "--min-retention", "0.5") == BELOW_RETENTION
    shown = capsys.readouterr().out
    assert "gate at 50%: fails: kept 0.0% of what the base knew (95% interval 0.0% to 36.9%), all of it below" in shown
    assert "8 answers flipped from right to wrong" in shown
    assert _train(llama_folder, data, tmp_path / "again", *more, "--min-retention", "0.0") == DONE
    assert "gate at 0%: passes" in capsys.readouterr().out


def test_a_gate_that_so_few_questions_cannot_open_is_refused_before_anything_is_trained(
    llama_folder: Path, rows_file: Path, retain_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--retain", str(retain_file), "--min-retention", "0.98")
    assert _train(llama_folder, rows_file, tmp_path / "out", *more) == USAGE
    assert "6 questions cannot show at confidence 0.95 that 98% is kept" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "no such file"), ("", "is empty"), ('{"prompt": "a?"}\n', "line 1: has 'prompt' but lacks")],
)
def test_bad_data_is_exit_code_3_with_one_line(
    content: str | None,
    says: str,
    llama_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = tmp_path / "data.jsonl"
    if content is not None:
        data.write_text(content)
    assert _train(llama_folder, data, tmp_path / "out") == USAGE
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("keep", "says"),
    [
        ("98", "retention.keep is 98"),
        ("-0.1", "retention.keep is -0.1"),
        ("0.98", "149 questions that the base answers right must be held back"),
    ],
)
def test_a_share_that_cannot_be_kept_or_shown_to_be_is_exit_code_3_with_one_line(
    keep: str,
    says: str,
    llama_folder: Path,
    rows_file: Path,
    retain_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = ["--keep", keep, "--retain", str(retain_file)]
    assert _train(llama_folder, rows_file, tmp_path / "out", *asked) == USAGE
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.ci
@pytest.mark.parametrize(
    ("number", "name", "code"),
    [
        (signal.SIGINT, "Ctrl-C", FAILED),
        pytest.param(signal.SIGTERM, "SIGTERM", 143),
        pytest.param(signal.SIGHUP, "SIGHUP", 129, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_is_asked_to_end_saves_and_says_how_to_resume(
    number: int, name: str, code: int, llama_folder: Path, rows_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = [
        *("--model", str(llama_folder), "--data", str(rows_file), "--out", str(out), "--method", "lora"),
        *("--retain", "none"),
        *("--set", "training.steps=100000", "--set", "training.save_every=100000"),
    ]
    command = [sys.executable, "-c", "from secura.cli.app import main; main()", "train", *options]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    log = out / "log.jsonl"
    until = time.monotonic() + 300
    while time.monotonic() < until and process.poll() is None and not (log.exists() and log.stat().st_size):
        time.sleep(0.1)
    process.send_signal(number)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == code, errors
    assert f"stopped by {name} after step" in errors
    assert f"secura train --resume --out {out}" in errors
    assert list(out.glob("checkpoint-*/trainer_state.json"))


def test_resume_needs_no_setting_but_the_folder(
    llama_folder: Path, rows_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert _train(llama_folder, rows_file, out, "--retain", "none") == DONE
    assert run(["train", "--resume", "--out", str(out)]) == DONE
    assert "continuing from" in capsys.readouterr().out
    assert run(["train", "--resume", "--out", str(out), "--set", "training.steps=9"]) == USAGE
    assert "training.steps was 3, now 9" in capsys.readouterr().err
