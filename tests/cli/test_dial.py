import json
from pathlib import Path

import pytest
from dialled_models import answered_by, questions_file, turned_adapter
from tiny_models import save_tiny_model, tiny_model

from secura.cli.app import run
from secura.cli.exit_codes import BELOW_RETENTION, DONE, USAGE


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECURA_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    save_tiny_model(folder / "base")
    turned_adapter(folder / "adapter", size=0.15)
    questions_file(folder / "known.jsonl", answered_by(tiny_model(), 80, asked="sky"))
    return folder


def _dial(world: Path, *more: str) -> int:
    known = str(world / "known.jsonl")
    return run(["dial", str(world / "base"), str(world / "adapter"), "--tasks", known, "--retain", known, *more])


def test_the_points_are_shown_and_a_page_and_a_json_are_left(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, point = tmp_path / "report", tmp_path / "point"
    code = _dial(world, "--keep", "0.8", "--at", "0.1,1", "--refine", "0", "--out", str(out), "--write", str(point))
    shown = capsys.readouterr().out
    assert code == DONE, shown
    for part in ("0 (base)", "kept", "At least 80% of what", "0.1 of what was learned is in", "dial.html"):
        assert part in shown, part
    assert sorted(path.name for path in out.iterdir()) == ["dial.html", "dial.json"]
    stored = json.loads((out / "dial.json").read_text())
    assert (stored["certificate"]["outcome"], stored["written_scale"]) == ("certified", 0.1)
    assert (point / "adapter_config.json").is_file()


def test_a_budget_that_is_not_reached_ends_with_its_own_code(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "report")
    assert _dial(world, "--keep", "0.9", "--at", "1", "--refine", "0", "--out", out) == BELOW_RETENTION
    assert "90% is not reachable; the best is" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--at", "half"], "--at half is no list of numbers"),
        (["--keep", "1.5"], "--keep is 1.5"),
        (["--keep", "0.98"], "149 questions that the base answers right must be held back"),
    ],
)
def test_wrong_usage_is_one_line(
    arguments: list[str], says: str, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _dial(world, *arguments) == USAGE
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.err.count("\n") == 1
