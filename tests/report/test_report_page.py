import json
import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest
from browser import needs_browser, opened
from made_records import LABELS, made_grids, made_record, write_peft_results, write_records

from secura.report.comparison.grids import Comparison, read_comparison
from secura.report.comparison.image_files import write_images
from secura.report.comparison.runs import GridRuns
from secura.report.report_page import report_page, sections_of, write_report

pytestmark = pytest.mark.ci

NASTY = "</script><b>bold</b>&'\"{{ 7*7 }}$x_1$"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of three grids and PEFT's points, with a label that tries to be markup."""
    folder = tmp_path_factory.mktemp("reports") / "a comparison #1"
    records = made_grids(labels=(*LABELS[:2], LABELS[6]))
    records = [replace(each, label=NASTY) if each.label == "SECURA M2" else each for each in records]
    write_records(folder, records)
    write_peft_results(folder, count=6)
    write_report(read_comparison(folder), folder / "report.html", folder / "figures")
    return folder


def _without_scripts(page: str) -> str:
    return re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)


def test_every_grid_has_a_section_and_what_it_lacks_is_missing_with_the_setting_that_brings_it(written: Path) -> None:
    page = _without_scripts((written / "report.html").read_text())
    assert re.findall(r'<h2 id="([^"]+)"', page) == ["harsh-rates", "performance", "sixteen-tasks", "peft-published"]
    assert page.count('<strong class="missing">missing</strong>') == 4 + 3 + 3
    assert "<code>measure: [spectra]</code>" in page
    assert "LoRA, 3 runs: the loss became NaN at step 37" in page


def test_every_exhibit_has_a_sentence_its_numbers_and_links_to_files_that_exist(written: Path) -> None:
    page = _without_scripts((written / "report.html").read_text())
    articles = re.findall(r'<article class="exhibit".*?</article>', page, re.DOTALL)
    shown = [article for article in articles if 'class="sentence"' in article]
    assert len(shown) == 3 + 5 + 4 + 2
    for article in shown:
        assert re.search(r'<p class="sentence">[^<]{20,}', article)
        assert "<table>" in article
        assert re.search(r'<a href="[^"#]+\.json"', article), article[:300]
    links = set(re.findall(r'href="([^"#]+\.(?:json|png|svg))"', page))
    assert len(links) > 100
    for link in links:
        assert (written / unquote(link)).is_file(), link


def test_the_page_is_accessible_in_its_markup(written: Path) -> None:
    page = _without_scripts((written / "report.html").read_text())
    plots = re.findall(r'<div class="plot"[^>]*>', page)
    assert plots
    assert all('role="img"' in plot and re.search(r'aria-label="[^"]{20,}"', plot) for plot in plots)
    headings = re.findall(r"<th[ >][^>]*>?", page)
    assert headings
    assert all("scope=" in heading for heading in headings)
    assert '<meta name="viewport" content="width=device-width' in page


def test_text_from_data_never_becomes_markup_and_nothing_names_a_network(written: Path) -> None:
    page = (written / "report.html").read_text()
    # The scripts: data, our own, plotly, and the call that draws.
    assert page.count("</script>") == page.count("<script") == 4
    assert "<b>bold" not in page
    assert "default-src 'none'" in page
    plain = re.sub(r"<script>/\*\*\s*\* plotly\.js.*?</script>", "", page, flags=re.DOTALL)
    assert re.findall(r"https?://|//cdn|@import|url\(|<link[^>]*stylesheet|src=", plain) == []


def test_every_figure_is_there_as_png_and_svg_and_the_same_numbers_give_the_same_svg(
    written: Path, tmp_path: Path
) -> None:
    names = {path.stem for path in (written / "figures").glob("*.png")}
    assert {path.stem for path in (written / "figures").glob("*.svg")} == names
    assert {"sixteen-tasks-matrices", "performance-pareto", "harsh-rates-rates", "peft-published-published"} <= names
    svg = (written / "figures" / "performance-pareto.svg").read_text()
    assert "DoRA" in svg
    section = next(each for each in sections_of(read_comparison(written)) if each.name == "performance")
    exhibit = next(each for each in section.exhibits if each.key == "pareto")
    again = next(path for path in write_images(exhibit, tmp_path / "again") if path.suffix == ".svg")
    assert again.read_text() == svg


def test_thousands_of_records_stay_a_page_of_a_few_megabytes(tmp_path: Path) -> None:
    norms = [(step, 1.0 + step % 7) for step in range(1, 301)]
    records = [
        made_record(label, seed=seed, task=task, gradient_norms=norms)
        for label in LABELS
        for task in ("x", "y", "z")
        for seed in range(100)
    ]
    files = {record.name: tmp_path / f"{record.name}.json" for record in records}
    comparison = Comparison(
        name="many", grids=[GridRuns(name="g", records=records)], records=records, files=files, notes=[]
    )
    page = report_page(comparison, sections_of(comparison), {}, tmp_path)
    assert len(page.encode()) < 7_500_000
    assert ">88 more</a>" in page


CHECK = """<!doctype html><body><iframe id="desk" src="PAGE" style="width:1200px;height:900px"></iframe>
<iframe id="phone" src="PAGE" style="width:390px;height:800px"></iframe><pre id="found"></pre><script>
function look(frame) {
  const page = frame.contentDocument, root = page.documentElement;
  const plots = [...page.querySelectorAll(".plot")];
  const button = page.querySelector(".legend button");
  const plot = button.closest(".exhibit").querySelector(".plot");
  const before = plot.querySelectorAll(".scatterlayer .trace").length;
  button.click();
  return { drawn: Number(root.dataset.drawn), plots: plots.length,
    bare: plots.filter((one) => !one.querySelector("svg.main-svg :is(.trace, .hm)")).map((one) => one.id),
    wide: root.scrollWidth - root.clientWidth,
    cut: plots.filter((one) => one.querySelector("svg.main-svg").clientWidth > one.clientWidth + 1).length,
    pressed: button.getAttribute("aria-pressed"),
    hidden: before - plot.querySelectorAll(".scatterlayer .trace").length };
}
const frames = ["desk", "phone"].map((id) => document.getElementById(id));
const timer = setInterval(() => {
  if (!frames.every((frame) => frame.contentDocument?.documentElement?.dataset.drawn)) return;
  clearInterval(timer);
  document.getElementById("found").textContent = JSON.stringify(Object.fromEntries(frames.map((f) => [f.id, look(f)])));
}, 50);
</script></body>"""


@needs_browser
def test_in_a_browser_every_figure_is_drawn_nothing_is_requested_and_a_phone_need_not_scroll_sideways(
    written: Path, tmp_path: Path
) -> None:
    check = tmp_path / "check.html"
    check.write_text(CHECK.replace("PAGE", (written / "report.html").as_uri()))
    dom, said = opened(check, tmp_path, "", "--allow-file-access-from-files", "--virtual-time-budget=30000")
    # The page's policy forbids every request, and a request it stops is said on the console.
    assert said == []
    found = re.search(r'<pre id="found">(.+?)</pre>', dom)
    assert found is not None
    for frame, seen in json.loads(found[1]).items():
        assert seen["plots"] > 8, frame
        assert seen["drawn"] == seen["plots"], frame
        assert seen["bare"] == [], frame
        assert (seen["wide"], seen["cut"]) == (0, 0), frame
        assert (seen["pressed"], seen["hidden"]) == ("false", 1), frame
