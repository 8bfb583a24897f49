from secura.report.comparison.estimate import Estimate
from secura.report.comparison.measure import FORGETTING, KEPT
from secura.report.comparison.saying import each_place, leader_sentence


def _of(mean: float, half: float | None) -> Estimate:
    ends = (None, None) if half is None else (mean - half, mean + half)
    return Estimate(mean=mean, low=ends[0], high=ends[1], count=1 if half is None else 3)


def test_a_leader_is_named_as_clear_where_its_interval_lies_apart() -> None:
    said = leader_sentence({"A": _of(0.5, 0.05), "B": _of(0.9, 0.05)}, KEPT, "keeps most")
    assert said == "B keeps most, 90.0% (85.0% to 95.0%, n = 3), clear of every other interval."


def test_what_cannot_be_told_apart_is_named() -> None:
    said = leader_sentence({"A": _of(0.85, 0.05), "B": _of(0.9, 0.05), "C": _of(0.4, 0.05)}, KEPT, "keeps most")
    assert said == "By the means B keeps most, 90.0% (85.0% to 95.0%, n = 3); it cannot be told apart from A."


def test_single_runs_lead_nobody() -> None:
    said = leader_sentence({"A": _of(0.2, None), "B": _of(0.1, None)}, FORGETTING, "forgets least")
    assert said == (
        "By the means B forgets least, 0.100 nats (n = 1); a single run cannot be told apart from any other."
    )
    mixed = leader_sentence({"A": _of(0.2, None), "B": _of(0.9, 0.05), "C": _of(0.3, 0.05)}, KEPT, "keeps most")
    assert mixed.endswith("nothing can be said of single runs, those of A.")
    assert "clear" not in mixed


def test_one_name_alone_has_nothing_to_lead() -> None:
    assert leader_sentence({"A": _of(0.5, 0.05)}, KEPT, "keeps most").startswith("A alone has numbers: 50.0%")
    assert leader_sentence({}, KEPT, "keeps most") == ""


def test_several_places_have_a_line_each_and_one_goes_without_saying() -> None:
    assert each_place({"one": "Yes.", "two": ""}) == "Yes."
    assert each_place({"one": "Yes.", "two": "No."}) == "one: Yes.\ntwo: No."
