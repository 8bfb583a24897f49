"""The pages of a studio, asked as a browser asks them: a run of the bundled model from its form to its result."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from secura.experiments.settings.layers import load_config
from secura.one_writer import one_writer
from secura.studio.access import Key
from secura.studio.app import studio_app
from secura.studio.studio import Studio

HOME = "http://127.0.0.1:8765"
SHORT = {
    "method": "lora",
    "steps": "40",
    "batch_size": "8",
    "learning_rate": "1e-3",
    "retain": "none",
    "more": "data.test_rows=4\ntraining.save_every=1000",
}


def visitor(studio: Studio) -> TestClient:
    key = Key.made_for(8765)
    client = TestClient(
        studio_app(studio, key, "127.0.0.1"), base_url=HOME, headers={"accept": "text/html", "origin": HOME}
    )
    client.get("/", params={"token": key.token})
    return client


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "runs"
    studio = Studio(tmp_path / "runs")
    for started in studio.processes.going_on():  # of a test that failed half-way
        studio.processes.stop(started.name)


def wait_for(studio: Studio, name: str, *states: str, step: int = 0) -> None:
    until = time.monotonic() + 240
    while True:
        progress = studio.watcher.of(name)
        if progress is not None and progress.state in states and (progress.step or 0) >= step:
            return
        assert progress is None or progress.is_active, (progress.state, progress.said)
        assert time.monotonic() < until, progress
        time.sleep(0.02)


def shown(markup: str) -> str:
    return re.sub(r"<[^>]*>", " ", markup)


@pytest.mark.ci
def test_a_run_is_started_stopped_gone_on_with_and_shown(root: Path) -> None:
    first = Studio(root)
    client = visitor(first)
    assert "Nothing has run here yet" in client.get("/").text
    answer = client.post("/new", data=SHORT | {"name": "mine"}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/run/mine")
    assert "checking" in client.get("/run/mine").text
    assert "mine is there already" in client.post("/new", data=SHORT | {"name": "mine"}).text
    wait_for(first, "mine", "going on", step=1)
    assert load_config(str(first.processes.settings_file("mine"))).training.steps == 40

    studio = Studio(root)  # another one, begun later, knows as much
    client = visitor(studio)
    assert re.search(r"step \d+ of 40", client.get("/run/mine").text)
    assert client.get("/figures/mine").json()[0]["title"] == "Training loss"
    assert "Stop and save" in client.get("/run/mine").text
    assert client.post("/stop/mine").status_code == 200
    wait_for(studio, "mine", "stopped")
    page = client.get("/run/mine").text
    assert "stopped by SIGTERM after step" in page
    assert "secura train --resume" in page

    assert client.post("/resume/mine").status_code == 200
    wait_for(studio, "mine", "done")
    assert "held-out rows are answered right" in client.get("/").text
    assert client.post("/resume/mine").status_code == 409
    assert client.post("/stop/mine").status_code == 409
    assert 'src="/page/mine"' in client.get("/result/mine").text
    answer = client.get("/page/mine")
    assert "What was learned" in answer.text
    assert answer.headers["content-security-policy"].startswith("sandbox allow-scripts; default-src 'none'")
    assert len((root / "mine" / "log.jsonl").read_text().splitlines()) == 40
    form = client.get("/new", params={"like": "mine"}).text
    assert 'value="40"' in form
    assert "data.test_rows=4" in form


def test_what_the_settings_refuse_stands_beside_its_field_and_nothing_starts(root: Path) -> None:
    studio = Studio(root)
    answer = visitor(studio).post("/new", data=SHORT | {"steps": "0"})
    assert answer.status_code == 422
    field = answer.text[answer.text.index('id="steps"') :]
    assert 'aria-invalid="true"' in field[: field.index(">")]
    assert "training.steps is 0: " in field[: field.index("</div>")]
    assert 'value="1e-3"' in answer.text  # what was typed is still there
    assert not root.exists()


@pytest.mark.ci
def test_what_the_run_refuses_stands_beside_the_same_form(root: Path) -> None:
    studio = Studio(root)
    client = visitor(studio)
    client.post("/new", data=SHORT | {"data": str(root.parent / "missing.jsonl"), "name": "mine"})
    until = time.monotonic() + 120
    while (progress := studio.watcher.of("mine")) is None or progress.is_active:
        assert time.monotonic() < until
        time.sleep(0.1)
    assert progress.state == "refused"
    page = client.get("/run/mine").text
    assert "missing.jsonl: no such file" in shown(page)
    assert 'action="/new"' in page
    assert "missing.jsonl&#34;" not in page
    assert f'value="{root.parent / "missing.jsonl"}"' in page
    assert not (root / "mine").exists()  # so that the name is free for the next try


def test_the_yaml_is_shown_before_anything_starts(root: Path) -> None:
    answer = visitor(Studio(root)).post("/new", data=SHORT | {"do": "show"})
    assert "learning_rate: 0.001" in answer.text
    assert "secura train settings.yaml --out" in shown(answer.text)
    assert not root.exists()


def test_a_run_of_a_terminal_is_going_on_and_cannot_be_started_over(root: Path) -> None:
    with one_writer(root / "mine"):
        (root / "mine" / "config.yaml").write_text("training: {steps: 5}\n")
        client = visitor(Studio(root))
        assert "Another process writes into this folder" in client.get("/run/mine").text
        assert client.post("/stop/mine").status_code == 409
        assert client.post("/resume/mine").status_code == 409
        assert "mine is there already" in client.post("/new", data=SHORT | {"name": "mine"}).text
    assert "Continue" in client.get("/run/mine").text


NOT_THERE = [
    *("/run/nope", "/run/../../etc", "/run/%2e%2e/%2e%2e/etc", "/page/.studio/mine", "/figures//etc", "/nowhere"),
    *("/static/../app.py", "/static/app.py", "/result/mine", "/talk/mine"),
]


@pytest.mark.parametrize("path", NOT_THERE)
def test_what_is_not_there_is_not_found(root: Path, path: str) -> None:
    (root / "mine").mkdir(parents=True)
    (root / "mine" / "config.yaml").write_text("training: {steps: 5}\n")
    assert visitor(Studio(root)).get(path).status_code == 404


def test_a_page_that_leads_out_of_the_folder_is_not_shown(root: Path) -> None:
    (root / "mine").mkdir(parents=True)
    secret = root.parent / "secret.html"
    secret.write_text("<title>secret</title>")
    (root / "mine" / "forget.html").symlink_to(secret)
    assert visitor(Studio(root)).get("/page/mine").status_code == 404


def test_text_of_a_folder_stays_text(root: Path) -> None:
    evil = "<script>alert(1)"
    folder = root / "x<b>y"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(f"model: {{path: '{evil}'}}\ndata: {{path: '{evil}'}}\n")
    client = visitor(Studio(root))
    for path in ("/", "/run/x%3Cb%3Ey", "/new?like=x%3Cb%3Ey"):
        page = client.get(path).text
        assert "<script>alert" not in page
        assert "x<b>" not in page
        assert "&lt;script&gt;alert" in page


def test_more_than_a_form_ever_is_is_not_read(root: Path) -> None:
    assert visitor(Studio(root)).post("/new", data={"more": "x" * 300_000}).status_code == 413


def test_no_answer_to_a_get_changes_anything(root: Path) -> None:
    client = visitor(Studio(root))
    for path in ("/stop/x", "/resume/x", "/say/x", "/ask/forget/x", "/conversation/unload"):
        assert client.get(path).status_code == 405


def test_an_event_is_told_at_once_and_events_end_with_the_server(root: Path) -> None:
    closing: list[bool] = []
    studio = Studio(root, is_closing=lambda: bool(closing))
    with visitor(studio).stream("GET", "/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        closing.append(True)
        assert "retry: 2000" in "".join(answer.iter_text())


@pytest.mark.parametrize("what", ["forget", "dial"])
def test_a_finished_run_is_asked_by_the_command_of_that_name(
    what: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    program.write_text('#!/bin/sh\necho "$@"\necho "secura: too few." >&2\nexit 3\n')
    program.chmod(0o755)
    monkeypatch.setattr("secura.studio.started.sys.executable", str(program))
    (root / "grid" / "mine" / "adapter").mkdir(parents=True)
    for name, text in (("config.yaml", "{}"), ("retention.json", "{}"), ("secura_base.json", '{"model": "bundled"}')):
        (root / "grid" / "mine" / name).write_text(text)
    studio = Studio(root)
    client = visitor(studio)
    answer = client.post(f"/ask/{what}/grid/mine", follow_redirects=False)
    assert answer.headers["location"] == f"/run/{what}-grid-mine"
    until = time.monotonic() + 60
    while studio.processes.going_on():
        assert time.monotonic() < until
        time.sleep(0.02)
    page = shown(client.get(f"/run/{what}-grid-mine").text)
    assert f"-m secura {what} bundled {root}/grid/mine --out {root}/{what}-grid-mine" in page
    assert "too few." in page
    assert f"{what}-grid-mine" in client.get("/").text
    assert client.post(f"/ask/sums/{what}").status_code == 404
    (root / f"{what}-grid-mine").mkdir()
    (root / f"{what}-grid-mine" / "config.yaml").write_text("{}")
    answer = client.post(f"/ask/{what}/grid/mine")
    assert answer.status_code == 409
    assert f"{what}-grid-mine would be written to, and holds a run" in answer.text
