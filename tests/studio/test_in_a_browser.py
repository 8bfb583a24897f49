"""The studio in a browser: by keyboard, on a phone, live, and safe from a page that lies in its folder."""

import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from browser import needs_browser
from driven_browser import Browser, browser
from rich.console import Console

from secura.experiments.run.prepare import prepare_run
from secura.experiments.run.train import train_and_report
from secura.experiments.settings.layers import load_config
from secura.one_writer import one_writer
from secura.studio.serve import open_studio

pytestmark = [pytest.mark.ci, needs_browser]
READY = "document.readyState === 'complete'"


@dataclass(frozen=True, kw_only=True)
class Served:
    home: str
    address: str
    root: Path


@contextmanager
def served(root: Path, port: int = 0) -> Iterator[Served]:
    opened = open_studio(root, host="127.0.0.1", port=port)
    server = threading.Thread(target=opened.serve)
    server.start()
    try:
        yield Served(home=opened.address.partition("?")[0], address=opened.address, root=root)
    finally:
        opened.server.should_exit = True
        server.join(30)
        assert not server.is_alive()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of two steps, and a page from elsewhere."""
    folder = tmp_path_factory.mktemp("studio") / "runs"
    short = ["training.steps=2", "training.batch_size=2", "data.test_rows=4", "retention.path=none"]
    flags = {"method.name": "lora", "out": str(folder / "mine")}
    train_and_report(prepare_run(load_config(None, short, flags)), Console(file=io.StringIO()))
    return folder


@pytest.fixture
def driven(tmp_path: Path) -> Iterator[Browser]:
    with browser(tmp_path / "browser") as page:
        page.be(width=1200, height=900)
        yield page


def come_in(page: Browser, studio: Served) -> None:
    page.open(studio.address)
    page.wait_for(f"location.search === '' && document.querySelector('h1')?.textContent === 'Runs' && {READY}")


def go(page: Browser, address: str) -> None:
    page.open(address)
    page.wait_for(f"location.href.startsWith({json.dumps(address)}) && {READY}")


def step(folder: Path, number: int) -> None:
    line = {"step": number, "loss": 3.0 / number, "grad_norm": 1.0, "learning_rate": 1e-3, "memory_mb": 100}
    with (folder / "log.jsonl").open("a") as log:
        log.write(json.dumps(line) + "\n")


def test_a_run_is_described_by_keyboard_alone_and_a_mistake_gets_the_focus(root: Path, driven: Browser) -> None:
    with served(root) as studio:
        come_in(driven, studio)
        driven.tab_to("a[href='/new']")
        driven.press("Enter")
        driven.wait_for("location.pathname === '/new' && !!document.querySelector('#steps')")
        driven.tab_to("#steps")
        driven.type("0")
        driven.press("Enter")  # the first button, which starts
        driven.wait_for("document.querySelector('.problem')?.textContent.startsWith('training.steps is 0')")
        driven.wait_for("document.activeElement.id === 'steps'")
        assert driven.value_of("document.querySelector('#steps').value") == "0"
        driven.value_of("document.activeElement.select()")
        driven.type("12")
        driven.tab_to("button[value=show]")
        driven.press("Enter")
        driven.wait_for("document.querySelector('pre.yaml')?.textContent.includes('steps: 12')")
        assert [said for said in driven.said if "422" not in said] == []


def test_progress_is_shown_as_it_comes_without_a_reload(root: Path, tmp_path: Path, driven: Browser) -> None:
    with served(tmp_path / "runs") as studio:
        come_in(driven, studio)
        driven.value_of("window.kept = true")
        folder = studio.root / "live"
        with one_writer(folder):
            (folder / "config.yaml").write_text("method: {name: lora}\ntraining: {steps: 4}\n")
            step(folder, 1)
            driven.wait_for("document.querySelector('.card')?.textContent.includes('step 1 of 4')")
            assert driven.value_of("window.kept")
            driven.click(".card a")
            driven.wait_for("document.getElementById('figures')?.dataset.drawn === '4'")
            driven.value_of("window.kept = true")
            for number in (2, 3, 4):
                step(folder, number)
            driven.wait_for("document.querySelector('#state').textContent.includes('step 4 of 4')")
            points = "document.querySelectorAll('#figure-loss .scatterlayer .point').length"
            driven.wait_for(f"{points} === 4")
        driven.wait_for("!!document.querySelector('#resume')")  # its process has let go of it
        assert driven.value_of("window.kept")
        assert driven.said == []


def test_base_and_tuned_answer_beside_each_other_and_the_talk_outlives_a_reload(root: Path, driven: Browser) -> None:
    with served(root) as studio:
        come_in(driven, studio)
        go(driven, f"{studio.home}talk/mine")
        assert driven.value_of("document.activeElement.id") == "words"
        driven.type("Q: What is 2 plus 5? A:")
        driven.press("Enter")
        driven.wait_for("document.getElementById('said').textContent.startsWith('Loading the model of mine')")
        assert driven.value_of("document.getElementById('send').disabled")
        driven.wait_for("document.getElementById('talk').getAttribute('aria-busy') === 'false'", 120)
        script = "[...document.querySelectorAll('.turn')].map(t => [t.className, t.querySelector('p').textContent])"
        said = driven.value_of(script)
        assert said == [["turn you", "Q: What is 2 plus 5? A:"], ["turn base", "7"], ["turn tuned", "7"]]
        left, right = driven.value_of("['base', 'tuned'].map(s => document.querySelector('.' + s).offsetLeft)")
        assert left < right
        go(driven, f"{studio.home}talk/mine")
        assert driven.value_of(script) == said
        driven.be(width=390, height=844, phone=True)
        left, right = driven.value_of("['base', 'tuned'].map(s => document.querySelector('.' + s).offsetLeft)")
        assert left == right
        driven.tab_to("#anew")
        driven.press("Enter")
        driven.wait_for("!document.querySelector('.turn')")
        assert driven.said == []


def test_on_a_phone_nothing_is_wider_than_the_screen_and_what_is_pressed_is_large_enough(
    root: Path, driven: Browser
) -> None:
    with served(root) as studio:
        come_in(driven, studio)
        driven.be(width=360, height=740, phone=True)
        for path in ("", "new", "run/mine", "result/mine", "talk/mine"):
            go(driven, studio.home + path)
            if path.startswith("run"):
                driven.wait_for("!!document.getElementById('figures').dataset.drawn")
            assert driven.value_of("document.documentElement.scrollWidth") <= 360, path
            sizes = "[...document.querySelectorAll('button, .button, input, select')].map(e => e.offsetHeight)"
            assert min(driven.value_of(sizes), default=44) >= 30, path
            assert driven.said == [], path


def test_every_page_is_drawn_in_dark_colours_too_and_says_nothing(root: Path, driven: Browser) -> None:
    with served(root) as studio:
        come_in(driven, studio)
        driven.dark(True)
        for path in ("", "new", "run/mine", "result/mine", "talk/mine", "nowhere"):
            go(driven, studio.home + path)
            assert driven.value_of("getComputedStyle(document.body).backgroundColor") == "rgb(22, 22, 21)", path
        assert [each for each in driven.said if "nowhere" not in each] == []


EVIL = """<title>Nothing was lost.</title><body><script>
const found = {};
found.origin = self.origin;
try { found.cookie = document.cookie; } catch (problem) { found.cookie = problem.name; }
try { found.parent = parent === self ? "alone" : parent.document.title; } catch { found.parent = "refused"; }
fetch("/", {credentials: "include"}).then(() => "read", () => "refused").then((what) => {
  found.read = what;
  return fetch("/new", {method: "POST", mode: "no-cors", body: "name=evil", credentials: "include"});
}).then(() => "sent", () => "refused").then((what) => {
  found.post = what;
  const form = document.createElement("form");
  form.method = "post"; form.action = "/new"; form.innerHTML = "<input name=name value=evil>";
  document.body.append(form); form.submit();
  setTimeout(() => { document.title = JSON.stringify(found); }, 500);
});
</script>"""


def test_a_page_from_elsewhere_runs_its_scripts_without_reaching_the_studio(tmp_path: Path, driven: Browser) -> None:
    root = tmp_path / "runs"
    (root / "evil").mkdir(parents=True)
    (root / "evil" / "forget.html").write_text(EVIL)
    with served(root) as studio:
        come_in(driven, studio)
        assert "Nothing was lost." in driven.value_of("document.querySelector('.card').textContent")
        driven.open(f"{studio.home}page/evil")
        found = json.loads(driven.wait_for("document.title.startsWith('{') && document.title"))
        assert found == {
            "origin": "null",
            "cookie": "SecurityError",
            "parent": "alone",
            "read": "refused",
            "post": "refused",
        }
        assert driven.value_of("location.pathname") == "/page/evil"
        go(driven, f"{studio.home}result/evil")
        assert driven.value_of("document.querySelector('iframe').contentDocument") is None
        go(driven, studio.home)
        assert driven.value_of("document.querySelectorAll('.card').length") == 1


def test_a_page_that_was_open_before_the_studio_began_again_says_what_to_do(root: Path, driven: Browser) -> None:
    with served(root) as studio:
        come_in(driven, studio)
    driven.wait_for("document.getElementById('connection').textContent.includes('does not answer')")
    port = int(studio.home.rstrip("/").rpartition(":")[2])
    with served(root, port) as again:
        driven.wait_for("document.getElementById('connection').textContent.includes('Open the address')")
        come_in(driven, again)
