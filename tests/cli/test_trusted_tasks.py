"""A folder is not code: what its settings name is run only where the command line says so."""

from pathlib import Path

import pytest

from secura.cli.app import run
from secura.cli.exit_codes import USAGE


@pytest.fixture
def code(tmp_path: Path) -> Path:
    path = tmp_path / "task.py"
    path.write_text(f"open({str(tmp_path / 'was_run')!r}, 'w')\n")
    return path


def folder_of(tmp_path: Path, settings: str) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(settings)
    return folder


COMMANDS = {
    "resume": ["train", "--resume", "--out", "RUN"],
    "the folder's settings": ["train", "RUN/config.yaml", "--out", "RUN", "--resume"],
    "the sequence": ["sequence", "RUN/config.yaml", "--out", "RUN"],
    "log": ["sequence", "log", "RUN"],
    "undo": ["sequence", "undo", "RUN", "two_steps"],
    "bisect": ["sequence", "bisect", "RUN", "--family", "birds"],
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("place", ["data", "retention", "calibration"])
def test_a_python_file_that_a_folder_names_is_not_run(
    command: list[str], place: str, code: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of_sequence = command[0] == "sequence"
    retention = f"retention: {{path: 'birds, {code}'}}\n"
    settings = {
        "data": f"tasks: [two_steps, {code}]\n" if of_sequence else f"data: {{path: {code}}}\n",
        "retention": "tasks: [two_steps]\n" + retention if of_sequence else retention,
        "calibration": ("tasks: [two_steps]\n" if of_sequence else "") + f"method: {{calibration: {code}}}\n",
    }[place]
    folder = folder_of(tmp_path, settings)
    ended = run([part.replace("RUN", str(folder)) for part in command])
    said = capsys.readouterr().err
    assert not (tmp_path / "was_run").exists()
    if "log" not in command:
        assert ended == USAGE
        assert "a Python file that would be run; look at it, then add --trust-tasks" in said


@pytest.mark.parametrize("command", ["resume", "the folder's settings"])
def test_a_python_file_that_a_folder_mixes_in_is_not_run(
    command: str, code: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(tmp_path, f"data: {{mix: {{{code}: 0.2}}}}\n")
    assert run([part.replace("RUN", str(folder)) for part in COMMANDS[command]]) == USAGE
    assert "a Python file that would be run; look at it, then add --trust-tasks" in capsys.readouterr().err
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize("permission", [["--trust-tasks"], ["--data", "CODE"], ["--set", "data.path=CODE"]])
def test_it_is_run_where_the_command_line_says_so(permission: list[str], code: Path, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, f"data: {{path: {code}}}\n")
    run(["train", "--resume", "--out", str(folder), *(part.replace("CODE", str(code)) for part in permission)])
    assert (tmp_path / "was_run").exists()


LEFT_BY_RUNS = (
    "secura_base.json",
    "secura_run.json",
    "log.jsonl",
    "matrix.json",
    "checkpoint-2/any",
    "adapter/adapter_config.json",
)


@pytest.mark.parametrize("left", LEFT_BY_RUNS)
@pytest.mark.parametrize("command", ["train CONFIG", "data show two_steps --config CONFIG"])
def test_a_folder_is_known_as_one_of_a_run_by_anything_that_a_run_leaves(
    left: str, command: str, code: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(tmp_path, f"data: {{path: two_steps, mix: {{{code}: 0.1}}}}\n")
    (folder / left).parent.mkdir(exist_ok=True)
    (folder / left).touch()
    assert run(command.replace("CONFIG", str(folder / "config.yaml")).split()) == USAGE
    assert "a Python file that would be run" in capsys.readouterr().err
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize("named", ["RUN", "RUN/adapter"])
def test_dialling_a_run_runs_no_python_file_that_it_names(
    named: str, code: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(tmp_path, f"data: {{path: {code}}}\n")
    (folder / "adapter").mkdir()
    dial = ["dial", "bundled", named.replace("RUN", str(folder))]
    assert run(dial) == USAGE
    assert "a Python file that would be run; look at it, then add --trust-tasks" in capsys.readouterr().err
    assert not (tmp_path / "was_run").exists()


def test_naming_one_file_allows_no_other(code: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.py"
    other.write_text(code.read_text())
    folder = folder_of(tmp_path, f"retention: {{path: {other}}}\n")
    assert run(["train", "--resume", "--out", str(folder), "--data", str(code)]) == USAGE
    assert not (tmp_path / "was_run").exists()


def test_settings_of_the_users_own_run_what_they_name(code: Path, tmp_path: Path) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text(f"data: {{path: {code}}}\n")
    run(["train", str(own), "--out", str(tmp_path / "new")])
    assert (tmp_path / "was_run").exists()
