import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer

from secura.cli import app as cli
from secura.errors import ConfigError, SecuraError, TrainingError


def _as_command(folder: Path, code: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run code from a script named as the installed command is."""
    script = folder / "secura"
    script.write_text("import os, sys\nfrom secura.cli.app import run\n" + code)
    plain = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    return subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, env=plain | env)


def test_help_answers_without_importing_torch(tmp_path: Path) -> None:
    code = "code = run(['train', '--help'])\nsys.exit(code or 'torch' in sys.modules)"
    done = _as_command(tmp_path, code)
    assert done.returncode == 0, done.stderr
    assert "--min-retention" in done.stdout


@pytest.mark.parametrize(("own", "expected"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_waiting_threads_sleep_unless_the_user_wants_otherwise(
    own: dict[str, str], expected: str, tmp_path: Path
) -> None:
    done = _as_command(tmp_path, "print(os.environ['OMP_WAIT_POLICY'])", **own)
    assert done.stdout.strip() == expected, done.stderr


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (ConfigError("two\nlines"), cli.USAGE),
        (TrainingError("loss is nan"), cli.FAILED),
        (SecuraError("anything else"), cli.FAILED),
        (KeyboardInterrupt(), cli.FAILED),
        (RuntimeError("a bug"), cli.FAILED),
    ],
)
def test_an_error_is_one_line_on_stderr_and_an_exit_code(
    raised: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise raised

    app = typer.Typer()
    app.command()(fail)
    monkeypatch.setattr(cli, "app", app)
    assert cli.run([]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("secura: ")
    assert captured.err.count("\n") == 1


def test_running_out_of_memory_is_said_with_the_way_out_and_without_the_allocators_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        torch.empty(2**60, dtype=torch.uint8)

    app = typer.Typer()
    app.command()(fail)
    monkeypatch.setattr(cli, "app", app)
    assert cli.run([]) == cli.FAILED
    said = capsys.readouterr().err
    assert said.startswith("secura: main memory ran out when ")
    assert "training.batch_size" in said
    assert "DefaultCPUAllocator" not in said


@pytest.mark.parametrize("arguments", [["train", "--bogus"], ["trian"], ["train", "--min-retention", "much"]])
def test_wrong_usage_is_exit_code_3(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(arguments) == cli.USAGE
    assert capsys.readouterr().err.startswith("secura: ")


def test_no_arguments_at_all_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    cli.run([])
    assert "train" in "".join(capsys.readouterr())
