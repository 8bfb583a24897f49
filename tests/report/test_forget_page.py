import functools
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from browser import needs_browser, opened
from made_results import made_change, made_result, some

from secura.experiments.forget.result import ForgetResult, TokenView
from secura.report.forget_page import forget_page

NASTY = "</script><script>document.title='taken'</script><b>bold</b> & {{ 7*7 }} \"quoted\" 'single' \u2028 <!--"


def _with_view(result: ForgetResult, text: str = "tokén") -> ForgetResult:
    view = TokenView(answer="x", tokens=(text, "<eos>"), base=(-0.01, None), tuned=(-4.2, float("-inf")))
    first, *rest = result.flips
    return replace(result, flips=[replace(first, views=(view, view)), *rest])


@functools.lru_cache(maxsize=1)
def _result() -> ForgetResult:
    return _with_view(
        made_result(
            made_change("older", some(60, 60), some(3, 60), metric="accuracy", prompt="Who is older?", answer="Xena"),
            made_change("sums", some(20, 40), some(30, 40), prompt="What is 3 plus 4?", answer="7"),
            made_change("homes", some(30, 30), some(30, 30), prompt="Where is it?"),
        )
    )


@functools.lru_cache(maxsize=1)
def _nasty_result() -> ForgetResult:
    change = made_change(NASTY[:60], some(30, 30), some(0, 30), prompt=NASTY, answer=f"right {NASTY}", given=NASTY)
    return replace(_with_view(made_result(change, notes=[NASTY]), NASTY), base=NASTY, tuned=NASTY)


def _data(page: str) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_the_page_says_the_finding_before_anything_else() -> None:
    page = forget_page(_result())
    body = page[page.index("<body>") :]
    assert "Broken: older, 100.0% before, 5.0% after." in body[: body.index("<table")]
    assert page.index('<th scope="row">older') < page.index('<th scope="row">homes')


def test_the_page_is_one_file_under_6_mb_that_forbids_every_request() -> None:
    page = forget_page(_result())
    assert len(page.encode()) < 6_000_000
    assert "default-src 'none'" in page
    without_plotly = re.sub(r"<script>/\*\*\s*\* plotly\.js.*?</script>", "", page, flags=re.DOTALL)
    assert len(without_plotly) < 200_000
    assert re.findall(r"https?://|//cdn|@import|url\(|<link[^>]*stylesheet|src=", without_plotly) == []


def test_flips_beyond_the_page_are_counted_and_every_task_keeps_some() -> None:
    long = "many words " * 250
    changes = [made_change(f"task {n}", some(400, 400), some(0, 400), prompt=long) for n in range(4)]
    page = forget_page(made_result(*changes))
    assert len(page.encode()) < 6_000_000
    data = _data(page)
    assert data["tasks"] == [f"task {n}" for n in range(4)]
    assert 100 < len(data["flips"]) < 1600
    assert f"{1600 - len(data['flips'])} more flips are in forget.json" in page


def test_text_from_data_never_becomes_markup() -> None:
    page = forget_page(_nasty_result())
    # The scripts: data, our own, plotly, and the call that draws.
    assert page.count("</script>") == page.count("<script") == 4
    assert "<b>bold" not in page
    assert "&lt;b&gt;bold" in page
    flip = _data(page)["flips"][0]
    assert NASTY.strip() in flip["prompt"]
    assert flip["after"] == NASTY
    assert flip["views"][0]["tokens"][0] == NASTY


def test_a_long_prompt_keeps_its_beginning_and_its_end() -> None:
    change = made_change("long", some(10, 10), some(0, 10), prompt="beginning " + "x" * 9000)
    prompt = _data(forget_page(made_result(change)))["flips"][0]["prompt"]
    assert prompt.startswith("beginning")
    assert prompt.endswith("x 0")
    assert " […] " in prompt
    assert len(prompt) < 3100


def test_numbers_that_json_has_no_word_for_are_left_out() -> None:
    data = _data(forget_page(_result()))
    assert data["flips"][0]["views"][0]["tuned"] == [-4.2, None]
    assert data["flips"][0]["base_likelihoods"] == [-1.0, None]


def test_a_comparison_without_flips_has_no_browser_for_them() -> None:
    page = forget_page(made_result(made_change("homes", some(30, 30), some(30, 30))))
    assert "No answer went from right to wrong" in page
    assert 'id="flips"' not in page


def test_tasks_in_nats_are_named_beside_the_figure() -> None:
    change = made_change("wikitext2", [3.0, 3.1] * 10, [3.5, 3.6] * 10, metric="perplexity")
    page = forget_page(made_result(change, made_change("homes", some(30, 30), some(9, 30))))
    assert "Not drawn, because the unit differs: wikitext2." in page
    assert "+0.500 <small>nats</small>" in page


# ---- in a browser ----


def _written(result: ForgetResult, tmp_path: Path) -> Path:
    path = tmp_path / "forget.html"
    path.write_text(forget_page(result), encoding="utf-8")
    return path


def _cards(dom: str) -> list[str]:
    return re.findall(r'<li class="flip .*?</li>', dom, re.DOTALL)


@pytest.mark.ci
@needs_browser
def test_in_a_browser_the_search_finds_the_flips_that_hold_every_word(tmp_path: Path) -> None:
    page = _written(_result(), tmp_path)
    dom, said = opened(page, tmp_path, "#q=PLUS%2029&direction=gained")
    cards = _cards(dom)
    assert said == []
    assert len(cards) == 1
    assert "1 of 67 flips" in dom
    assert re.sub(r"<[^>]+>", "", cards[0]).startswith("sumsgainednumberitem 30What is 3 plus 4? 29")
    assert dom.count('class="main-svg"') >= 2  # both figures are drawn


@pytest.mark.ci
@needs_browser
def test_in_a_browser_nothing_is_requested_and_text_from_data_stays_text(tmp_path: Path) -> None:
    dom, said = opened(_written(_nasty_result(), tmp_path), tmp_path)
    # The page's policy forbids every request, and a request it stops is said on the console.
    assert said == []
    assert "<title>taken" not in dom
    assert "<b>bold" not in dom
    assert len(_cards(dom)) == 30
    assert dom.count("<small>−0.01 → −4.20</small>") == 2


@needs_browser
@pytest.mark.slow
def test_the_console_would_tell_of_a_request_and_of_an_error(tmp_path: Path) -> None:
    page = _written(_result(), tmp_path)
    changed = page.read_text(encoding="utf-8").replace(
        "</main>", "</main><img src='http://127.0.0.1:9/x.png'><script>undefinedName()</script>"
    )
    page.write_text(changed, encoding="utf-8")
    _, said = opened(page, tmp_path)
    assert any("Content Security Policy" in line for line in said)
    assert any("undefinedName" in line for line in said)
