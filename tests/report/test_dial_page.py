from dataclasses import replace
from typing import Any

import pytest

from secura.evaluation.certificate import Certificate, certificate_as_json, certify
from secura.evaluation.tally import Tally
from secura.experiments.dial.result import DialPoint, DialResult
from secura.report.certificate_text import certificate_facts
from secura.report.dial_page import dial_figure, dial_page

EVIL = "<script>alert('x')</script>"


def made_certificate(kept: int = 410, **changed: Any) -> Certificate:
    known = {"keep": 0.98, "confidence": 0.95, "seed": 0, "select_items": 400, "items": 412, "points": 2}
    return certify(0.5, kept, **{**known, **changed})


def made_dial(**changed: Any) -> DialResult:
    points = [
        DialPoint(
            scale=scale,
            gain=gain,
            scores={EVIL: 0.5 + gain},
            kept=Tally(asked=400, before=400, after=kept, lost=400 - kept),
        )
        for scale, gain, kept in ((0.0, 0.0, 400), (0.5, 0.2, 399), (1.0, 0.3, 350))
    ]
    result = DialResult(
        base=EVIL,
        tuned=EVIL,
        points=points,
        unit="points",
        keep=0.98,
        certificate=made_certificate(),
        written=None,
        written_scale=None,
        notes=[EVIL],
        record={"settings": {"tasks": [EVIL]}},
    )
    return replace(result, **changed)


def without_scripts_of_ours(page: str) -> str:
    return page[: page.index("<script>")]


def test_the_page_shows_the_certificate_and_every_point_and_escapes_all_that_is_not_ours() -> None:
    page = dial_page(made_dial())
    shown = without_scripts_of_ours(page)
    assert EVIL not in page
    for part in ("At least 98% of what the base answered right", "410 of 412, 99.5%", "+20.0", "+30.0", "87.5%"):
        assert part in shown, part
    assert shown.count("&lt;script&gt;") >= 4
    assert len(page) < 6_000_000


def test_without_a_share_to_keep_there_is_no_certificate() -> None:
    page = dial_page(made_dial(keep=None, certificate=None))
    assert "certificate-title" not in page
    assert "The most is gained at 1 of what was learned (+30.0 points), where 87.5%" in page


def test_the_figure_has_the_points_their_bounds_and_the_line_of_the_budget() -> None:
    figure = dial_figure(made_dial())
    (trace,) = figure["data"]
    assert list(trace["x"]) == [100.0, 99.75, 87.5]
    assert list(trace["y"]) == pytest.approx([0.0, 20.0, 30.0])
    assert trace["error_x"]["arrayminus"][0] == 0.0
    assert 84 < 87.5 - trace["error_x"]["arrayminus"][2] < 85
    assert figure["layout"]["shapes"][0]["x0"] == 98
    assert "shapes" not in dial_figure(made_dial(keep=None))["layout"]


def test_nats_are_shown_as_nats() -> None:
    page = dial_page(made_dial(unit="nats a token"))
    assert "gain, nats a token" in page
    assert "+0.300" in page


def test_the_facts_of_a_certificate_leave_out_what_was_not_asked() -> None:
    names = [name for name, _ in certificate_facts(certificate_as_json(made_certificate()))]
    assert names[-3:] == ["dial", "kept", "lower bound"]
    unasked = replace(made_certificate(), outcome="too few to tell", kept=None, scale=None)
    assert [name for name, _ in certificate_facts(certificate_as_json(unasked))][-1] == "seed"
    assert certificate_facts(None) == []
