"""The README and the docs say what is so: snippets run, commands parse, files and targets exist."""

import re
import shlex
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from secura.cli.app import run
from secura.experiments.comparison.grid.config import load_grid
from secura.experiments.settings.layers import load_config, load_config_of, read_yaml
from secura.experiments.settings.run import RunConfig
from secura.experiments.settings.sequence import SequenceConfig
from secura.tasks.data_rows import item_from_row

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCUMENTS = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def of_every_document(language: str) -> list[Any]:
    return [
        pytest.param(block, id=f"{path.relative_to(ROOT).with_suffix('')}-{number}")
        for path in DOCUMENTS
        for number, block in enumerate(blocks(path, language), start=1)
    ]


COMMANDS = [
    line.removeprefix("$ ").partition("#")[0].strip()
    for path in DOCUMENTS
    for block in blocks(path, "console")
    for line in block.splitlines()
    if line.startswith("$ ")
]


@pytest.mark.parametrize("snippet", of_every_document("python"))
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


@pytest.mark.parametrize("text", of_every_document("yaml"))
def test_settings_in_yaml_are_settings_and_a_pipeline_types_commands_that_exist(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "it.yaml").write_text(text)
    values = read_yaml(tmp_path / "it.yaml")
    if "jobs" in values:
        typed = [step["run"] for job in values["jobs"].values() for step in job["steps"] if "run" in step]
        ours = [shlex.split(each)[1:] for each in typed if each.startswith("secura ")]
        assert ours
        assert [run([*each, "--help"]) for each in ours] == [0] * len(ours)
        assert capsys.readouterr().out
    elif "methods" in values:
        load_grid(tmp_path / "it.yaml")
    else:
        load_config_of(SequenceConfig if "tasks" in values else RunConfig, str(tmp_path / "it.yaml"))


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


MEASURED = re.compile(r"(?<![\w.])\d+\.\d+(?![\w.])")
"""A number that somebody has measured, and no version, rate or share that somebody has chosen."""


@pytest.mark.parametrize("name", ["index.md", "faq.md", "how_to/several_tasks.md"])
def test_what_a_page_says_was_measured_stands_where_it_was_measured(name: str) -> None:
    sources = ["retention", "log", "reproduction", "evaluation", "export", "forget"]
    known = {number for each in sources for number in MEASURED.findall((ROOT / f"docs/{each}.md").read_text())}
    said = MEASURED.findall(re.sub(r"```.*?```|`[^`]*`", "", (ROOT / "docs" / name).read_text(), flags=re.DOTALL))
    assert said
    assert [number for number in said if number not in known] == []


def test_the_page_of_settings_is_made_from_the_settings_as_they_are() -> None:
    spec = spec_from_file_location("settings_page", ROOT / "docs" / "settings_page.py")
    assert spec is not None
    assert spec.loader is not None
    maker = module_from_spec(spec)
    spec.loader.exec_module(maker)
    assert maker.PAGE.read_text(encoding="utf-8") == maker.settings_page(), "make docs writes it anew"


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = re.findall(r"[\w/]+\.md", text.partition("\nnav:")[2])
    pages = [str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(listed) == sorted(pages)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_and_every_file_named_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    linked = [path.parent / link for link in re.findall(r"\]\((?!http)([^)#]+)\)", text)]
    code = re.findall(r"`((?:numerics|adapters|training|tests|benchmarks)/[\w/]+\.py)`", text)
    named = [ROOT / name if name.startswith(("tests", "benchmarks")) else ROOT / "src/secura" / name for name in code]
    assert [str(one) for one in [*linked, *named] if not one.exists()] == []
