import errno
import os
import subprocess
import sys
from importlib.metadata import version

import pytest
import torch
import typer

import secura
from secura.cli import app as cli
from secura.errors import ConfigError, SecuraError, TrainingError


def _as_command(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process where nobody has said how threads wait."""
    plain = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=plain | env)


@pytest.mark.parametrize(
    "start",
    ["from secura.__main__ import main; main()", "import runpy; runpy.run_module('secura', run_name='__main__')"],
    ids=["secura", "python -m secura"],
)
def test_help_answers_without_importing_torch(start: str) -> None:
    code = (
        "import sys\n"
        "sys.argv = ['secura', 'train', '--help']\n"
        f"try:\n    {start}\n"
        "except SystemExit as end:\n"
        "    sys.exit(end.code or 'torch' in sys.modules or 'peft' in sys.modules)\n"
    )
    done = _as_command(code)
    assert done.returncode == 0, done.stderr
    assert "--min-retention" in done.stdout


@pytest.mark.parametrize(("own", "expected"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_threads_of_the_command_wait_asleep_unless_the_user_wants_otherwise(own: dict[str, str], expected: str) -> None:
    code = (
        "import os, sys\n"
        "from secura.cli import app\n"
        "app.run = lambda arguments: print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules) or 0\n"
        "app.main([])\n"
    )
    done = _as_command(code, **own)
    assert done.stdout.strip() == f"{expected} False", done.stderr


def test_libraries_that_miss_a_gpu_do_not_say_so_in_the_command() -> None:
    code = (
        "import logging\n"
        "from secura.cli import app\n"
        "def use_libraries(arguments):\n"
        "    logging.getLogger('bitsandbytes.backends.cpu.ops').warning('no kernel for the CPU')\n"
        "    logging.getLogger('DeepSpeed').setLevel(logging.WARNING)\n"  # as it does itself
        "    logging.getLogger('DeepSpeed').warning('Setting accelerator to CPU. If you have GPU')\n"
        "    logging.getLogger('DeepSpeed').warning('something else')\n"
        "    return 0\n"
        "app.run = use_libraries\n"
        "app.main([])\n"
    )
    assert _as_command(code).stderr == "something else\n"


def test_the_version_is_told_without_importing_torch() -> None:
    code = (
        "import sys\n"
        "sys.argv = ['secura', '--version']\n"
        "from secura.__main__ import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n"
        "    sys.exit(end.code or 'torch' in sys.modules)\n"
    )
    done = _as_command(code)
    assert (done.returncode, done.stdout) == (0, f"secura {version('secura')}\n"), done.stderr
    assert secura.__version__ == version("secura")


def test_h_is_help_of_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["-h"], ["train", "-h"], ["data", "show", "-h"], ["sequence", "run", "-h"]):
        assert cli.run(arguments) == 0
        assert "--help" in capsys.readouterr().out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_can_be_shown(shell: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "secura"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"_SECURA_COMPLETE": f"source_{shell}", "_TYPER_COMPLETE_ARGS": ""},
    )
    assert "secura" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "--lr", "1e-4"], "No such option: --lr. It is a setting: --set training.learning_rate=VALUE."),
        (["train", "--bf16"], "--set training.precision=bf16."),
        (["train", "--max-seq-length", "512"], "--set data.max_length=VALUE."),
        (["train", "--per_device_train_batch_size=4"], "--set training.batch_size=VALUE."),
        (["train", "--colour", "red"], "See secura --help."),
    ],
)
def test_an_option_that_is_a_setting_leads_to_it(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(arguments) == 3
    assert says in capsys.readouterr().err


def test_importing_secura_leaves_the_environment_alone() -> None:
    done = _as_command("import os, secura, secura.cli.app; print(os.environ.get('OMP_WAIT_POLICY'))")
    assert done.stdout.strip() == "None", done.stderr


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


@pytest.mark.parametrize(
    ("arguments", "lists"),
    [
        ([], ["Usage: secura [OPTIONS] COMMAND", "  train  ", "  sequence  ", "  compare  "]),
        (["sequence"], ["Usage: secura sequence [OPTIONS] COMMAND", "  run  ", "  undo  "]),
        (["compare"], ["Usage: secura compare [OPTIONS] COMMAND", "  plan  ", "  table  "]),
    ],
)
def test_a_bare_command_shows_its_help_line_by_line(
    arguments: list[str], lists: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(arguments) == cli.USAGE
    bare = capsys.readouterr()
    assert bare.out == ""
    lines = bare.err.splitlines()
    for part in lists:
        assert any(line.startswith(part) for line in lines), part
    assert cli.run([*arguments, "--help"]) == cli.DONE
    assert capsys.readouterr().out == bare.err


@pytest.mark.parametrize("width", ["80", "60"])
def test_help_keeps_to_the_width_and_cuts_no_sentence(
    width: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    for arguments in ([], ["sequence"], ["compare"]):
        cli.run([*arguments, "--help"])
        shown = capsys.readouterr().out
        assert "..." not in shown.replace("COMMAND [ARGS]...", "")
        assert max(map(len, shown.splitlines())) <= int(width)
    cli.run(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "Fine-tune a model and see what it learned, what it kept and what it forgot." in shown


def test_nothing_in_an_error_a_warning_or_a_traceback_acts_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["data", "show", "no\x1b[2Jsuch"]) == 3
    shown = capsys.readouterr().err
    assert "secura: no\\x1b[2Jsuch: no file, folder or task has this name." in shown
    code = (
        "import warnings\nfrom secura.cli.app import _write_plainly\n_write_plainly()\n"
        "warnings.warn('one \\x1b[2J')\nraise ValueError('two \\x9b31m')"
    )
    done = _as_command(code)
    assert "UserWarning: one \\x1b[2J" in done.stderr
    assert "ValueError: two \\x9b31m" in done.stderr
    assert "\x1b" not in shown + done.stderr
    assert "\x9b" not in shown + done.stderr


@pytest.mark.parametrize(
    ("problem", "says", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "runs/a"), "secura: runs/a: No space left on device.", 1),
        (OSError(errno.EROFS, "Read-only file system", "a", None, "b"), "secura: a and b: Read-only file system.", 1),
        (OSError(errno.ENAMETOOLONG, "File name too long", "a"), "secura: a: File name too long.", 3),
    ],
)
def test_what_the_system_refuses_is_said_of_the_file(
    problem: OSError, says: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*arguments: object, **more: object) -> None:
        raise problem

    monkeypatch.setattr("secura.experiments.run.look_at_rows.look_at_rows", refuse)
    assert cli.run(["data", "show", "rows.jsonl"]) == code
    said = capsys.readouterr().err
    assert said.startswith(says)
    assert said.count("\n") == 1
