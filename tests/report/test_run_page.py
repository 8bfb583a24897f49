"""The page of one run: what it shows, that no data becomes markup, and that a browser draws it."""

import io
import json
import shutil
import webbrowser
from pathlib import Path

import pytest
from browser import needs_browser, opened
from rich.console import Console

from secura.cli.app import run as secura
from secura.cli.exit_codes import DONE, USAGE
from secura.errors import DataError
from secura.experiments.run.prepare import prepare_run
from secura.experiments.run.train import train_and_report
from secura.experiments.settings.layers import load_config
from secura.report.run_page import run_page, write_run_page

EVIL = "<script>alert('x')</script>"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run with a share to keep, so that its log has a budget and its report a certificate."""
    folder = tmp_path_factory.mktemp("run")
    short = ["training.steps=26", "training.batch_size=4", "data.test_rows=8", "retention.per_family=10"]
    bank = ["strategy.settings.texts=12", "strategy.settings.tokens=24"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECURA_CACHE", str(folder / "cache"))
        flags = {"method.name": "lora", "out": str(folder / "out"), "retention.keep": 0.9}
        train_and_report(prepare_run(load_config(None, [*short, *bank], flags)), Console(file=io.StringIO()))
    return folder / "out"


def copied(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoint-*"))


@pytest.mark.ci
def test_the_page_shows_what_was_learned_and_kept_the_certificate_the_steps_and_the_cost(finished: Path) -> None:
    page = run_page(finished)
    stored = json.loads((finished / "retention.json").read_text())
    shown = page[: page.index("<script")]
    for part in (
        stored["certificate"]["sentence"],
        f"answered right, of {stored['new_task']['total']['asked']}",
        "true_homes",
        "Strength λ",
        "Steer questions still right",
        "weights trained",
        "26",
    ):
        assert part in shown, part
    assert r"budget \u03ba" in page  # of a figure, so in the data of the script
    assert shown.count('role="img"') == 7
    lines = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "steer_kept" in line] == [25]


def test_text_of_the_users_stays_text(finished: Path, tmp_path: Path) -> None:
    run = copied(finished, tmp_path)
    stored = json.loads((run / "retention.json").read_text())
    stored["task"] = EVIL
    stored["retention"]["flips"] = [{"family": EVIL, "prompt": EVIL, "right": EVIL, "before": EVIL, "after": EVIL}]
    stored["open_answers"] = [{"prompt": EVIL, "before": EVIL, "after": ""}]
    (run / "retention.json").write_text(json.dumps(stored))
    page = run_page(run)
    assert EVIL not in page
    assert page.count("&lt;script&gt;alert") > 6
    assert "(nothing)" in page


@pytest.mark.parametrize("damage", ["{", "[]", '{"task": "x"}'])
def test_damaged_files_are_named(finished: Path, tmp_path: Path, damage: str) -> None:
    run = copied(finished, tmp_path)
    (run / "retention.json").write_text(damage)
    with pytest.raises(DataError, match=r"retention\.json"):
        write_run_page(run)
    assert not (run / "run.html").exists()


def test_the_command_makes_the_page_of_a_run_and_opens_it(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    addresses: list[str] = []
    monkeypatch.setattr(webbrowser, "open", addresses.append)
    run = copied(finished, tmp_path)
    assert secura(["report", str(run), "--open"]) == DONE
    assert addresses == [(run / "run.html").resolve().as_uri()]
    assert secura(["report", str(run), "--figures", str(tmp_path / "figures")]) == USAGE
    assert "the page of a run contains its figures" in capsys.readouterr().err


def test_training_can_end_in_the_opened_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    addresses: list[str] = []
    monkeypatch.setattr(webbrowser, "open", addresses.append)
    settings = ["training.steps=1", "training.batch_size=2", "data.test_rows=2", "retention.path=none"]
    flags = [part for each in settings for part in ("--set", each)]
    assert secura(["train", "--method", "lora", "--out", str(tmp_path / "out"), "--open", *flags]) == DONE
    assert addresses == [(tmp_path / "out" / "run.html").resolve().as_uri()]
    assert "page: " in capsys.readouterr().out
    assert "No questions were asked" in (tmp_path / "out" / "run.html").read_text()


@pytest.mark.ci
@needs_browser
def test_in_a_browser_every_figure_is_drawn_and_nothing_is_requested(finished: Path, tmp_path: Path) -> None:
    page = write_run_page(finished, tmp_path / "run.html")
    markup, said = opened(page, tmp_path)
    assert said == []
    assert 'data-drawn="7"' in markup
