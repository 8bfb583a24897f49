"""The README and the docs say what is so: snippets run, commands parse, files and targets exist."""

import re
import shlex
from pathlib import Path

import pytest

from secura.cli.app import run
from secura.experiments.settings.layers import load_config
from secura.tasks.data_rows import item_from_row

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCUMENTS = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


SNIPPETS = [
    pytest.param(block, id=f"{path.name}-{number}")
    for path in DOCUMENTS
    for number, block in enumerate(blocks(path, "python"), start=1)
]
COMMANDS = [
    line.removeprefix("$ ").partition("#")[0].strip()
    for path in DOCUMENTS
    for block in blocks(path, "console")
    for line in block.splitlines()
    if line.startswith("$ ")
]


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_a_python_snippet_runs(snippet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(snippet, "snippet", "exec"), {})


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("secura ")])
def test_a_command_has_options_that_exist(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    # Either keeps a command from doing what it says, once its options have been read.
    instead = "--print-config" if command.startswith("secura train") else "--help"
    assert run([*shlex.split(command)[1:], instead]) == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize("target", sorted({command.split()[1] for command in COMMANDS if command.startswith("make ")}))
def test_a_make_target_exists(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_every_option_in_the_readme_exists(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("train", "forget", "eval", "report", "card"):
        run([command, "--help"])
    known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    assert set(re.findall(r"(?<=`)--[a-z-]+", README.read_text())) <= known


def test_every_setting_in_the_readme_can_be_set() -> None:
    for assignment in re.findall(r"--set ([a-z_.]+=[^`\s]+)", README.read_text()):
        if assignment != "a.b=c":
            load_config(assignments=[assignment])


@pytest.mark.parametrize(
    ("path", "least"), [(README, 4), (ROOT / "docs" / "data.md", 6), (ROOT / "docs" / "evaluation.md", 3)]
)
def test_every_row_in_a_document_is_read(path: Path, least: int) -> None:
    import json

    rows = [json.loads(line) for block in blocks(path, "json") for line in block.splitlines()]
    assert len(rows) >= least
    for row in rows:
        item_from_row(row, where=path.name)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_and_every_file_named_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    linked = [path.parent / link for link in re.findall(r"\]\((?!http)([^)#]+)\)", text)]
    code = re.findall(r"`((?:numerics|adapters|training|tests|benchmarks)/[\w/]+\.py)`", text)
    named = [ROOT / name if name.startswith(("tests", "benchmarks")) else ROOT / "src/secura" / name for name in code]
    assert [str(one) for one in [*linked, *named] if not one.exists()] == []
