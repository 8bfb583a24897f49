import json
import math

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from secura.errors import ConfigError
from secura.evaluation.certificate import (
    Certificate,
    Point,
    certificate_as_json,
    certify,
    check_items,
    check_keep,
    choose_point,
    items_needed,
    lower_bound,
    not_certified,
    reaches,
)
from secura.evaluation.probe_split import split_probe

KNOWN = {"keep": 0.98, "confidence": 0.95, "seed": 7, "select_items": 400, "items": 412}


def certified(kept: int, scale: float = 0.5) -> Certificate:
    return certify(scale, kept, points=6, **KNOWN)


@pytest.mark.parametrize(("kept", "items"), [(0, 10), (5, 10), (10, 10), (407, 412), (149, 149)])
def test_the_bound_is_that_of_an_exact_one_sided_test(kept: int, items: int) -> None:
    bound = lower_bound(kept, items)
    expected = binomtest(kept, items, alternative="greater").proportion_ci(0.95, method="exact").low
    assert bound == pytest.approx(expected, abs=1e-12)


def test_reaching_is_rejecting_that_less_is_kept() -> None:
    for kept in range(395, 413):
        rejects = binom.sf(kept - 1, 412, 0.98) <= 0.05
        assert reaches(kept, 412, 0.98) == rejects, kept


def test_items_needed_where_nothing_flips_are_the_first_that_reach() -> None:
    for keep, needed in ((0.98, 149), (0.95, 59), (0.5, 5), (0.0, 1)):
        assert items_needed(keep) == needed
        assert reaches(needed, needed, keep)
        assert needed == 1 or not reaches(needed - 1, needed - 1, keep)
    assert items_needed(0.98, 0.975) == 183


def test_items_needed_at_a_true_share_are_the_first_at_which_success_is_likely() -> None:
    def success(items: int) -> float:
        most_lost = max(lost for lost in range(items) if lost < 40 and reaches(items - lost, items, 0.98))
        return math.fsum(math.comb(items, lost) * 0.01**lost * 0.99 ** (items - lost) for lost in range(most_lost + 1))

    assert items_needed(0.98, true_kept=0.99) == 969
    assert success(969) >= 0.8
    assert all(success(items) < 0.8 for items in range(159, 969, 90))
    with pytest.raises(ValueError, match="must lie above keep"):
        items_needed(0.98, true_kept=0.98)
    with pytest.raises(ValueError, match="more than 1,000,000 items"):
        items_needed(0.98, true_kept=0.98 + 1e-9)


def test_of_the_points_that_reach_the_one_of_best_gain_is_chosen() -> None:
    points = [
        Point(scale=1.0, gain=0.30, kept=390),
        Point(scale=0.75, gain=0.29, kept=398),
        Point(scale=0.5, gain=0.29, kept=400),
        Point(scale=0.25, gain=0.1, kept=400),
    ]
    assert choose_point(points, 400, 0.98) == points[2]
    assert choose_point(points, 400, 0.95) == points[0]
    assert choose_point(points[:1], 400, 0.98) is None


def test_a_manager_can_read_what_was_certified() -> None:
    found = certified(410)
    assert found.certified
    assert found.sentence == (
        "At least 98% of what the base answered right it still answers right, with 95% confidence, "
        "measured once on 412 held-back questions."
    )
    assert "410 of 412 (99.5%)" in found.explanation
    assert "of no other knowledge" in found.explanation


def test_what_is_not_shown_says_what_was_found() -> None:
    found = certified(404)
    assert found.outcome == "not shown"
    assert found.sentence == (
        "That 98% is kept is not shown: of 412 held-back questions that the base answered right it still answers "
        "98.0% right, at least 96.5% with 95% confidence."
    )


def test_where_no_point_reaches_the_best_is_named_and_the_held_back_questions_stay_unasked() -> None:
    points = [Point(scale=1.0, gain=0.3, kept=300), Point(scale=0.25, gain=0.1, kept=384)]
    found = not_certified(points, **KNOWN)
    assert found is not None
    assert (found.outcome, found.scale, found.kept) == ("not reachable", 0.25, None)
    assert found.sentence == "98% is not reachable; the best is 96.0% kept, at 0.25 of what was learned."
    assert not_certified([*points, Point(scale=0.1, gain=0.0, kept=400)], **KNOWN) is None


def test_too_few_questions_are_never_a_percentage() -> None:
    found = not_certified([Point(scale=1.0, gain=0.3, kept=40)], **{**KNOWN, "items": 40})
    assert found is not None
    assert found.outcome == "too few to tell"
    assert found.sentence.startswith("Too few to tell whether 98% is kept: to certify it, 149 ")
    assert "969 if 99% is kept in truth" in found.sentence
    assert found.share is None


def test_too_few_questions_are_refused_before_they_are_asked() -> None:
    with pytest.raises(ConfigError, match=r"149 questions .* there are 100\. Raise --count, or lower"):
        check_items(0.98, items=100, ask_more="raise --count")
    check_items(0.98, items=149, ask_more="raise --count")


def test_too_few_select_questions_still_choose_the_point_that_keeps_most() -> None:
    points = [
        Point(scale=1.0, gain=0.9, kept=38),
        Point(scale=0.5, gain=0.6, kept=40),
        Point(scale=0.2, gain=0.1, kept=40),
    ]
    chosen = choose_point(points, 40, 0.98)
    assert chosen is not None
    assert chosen.scale == 0.5
    assert choose_point(points[:1], 40, 0.98) is None


@pytest.mark.parametrize("keep", [1.0, -0.1, 98, float("nan")])
def test_a_share_to_keep_that_is_none_is_refused(keep: float) -> None:
    with pytest.raises(ConfigError, match=r"--keep is .*; give a share of at least 0 and below 1"):
        check_keep(keep)


def test_the_json_holds_the_numbers_and_the_sentences() -> None:
    stored = json.loads(json.dumps(certificate_as_json(certified(410))))
    assert (stored["kept"], stored["items"], stored["seed"], stored["needed"]) == (410, 412, 7, 149)
    assert stored["lower"] == pytest.approx(lower_bound(410, 412))
    assert stored["sentence"] == certified(410).sentence


@pytest.mark.parametrize("chooser", ["by the rule", "whatever looks best"])
@pytest.mark.parametrize("true_kept", [0.9799, 0.97])
def test_of_2000_trainings_that_keep_too_little_at_most_one_in_twenty_is_certified(
    chooser: str, true_kept: float
) -> None:
    """Questions flip more the higher the dial, down to a share just above what may be lost; the luckiest is taken."""
    trainings, probe, scales = 2000, 1030, np.array([0.25, 0.375, 0.5, 0.625, 0.75, 1.0])
    draw = np.random.default_rng(11)
    losses = (1 - true_kept) * np.linspace(1, 4, len(scales))
    families = [f"family {place % 7}" for place in range(probe)]
    found, splits = 0, [split_probe(families, seed=seed) for seed in range(20)]
    for training in range(trainings):
        parts = splits[training % len(splits)]
        lost = draw.random(probe) < losses[:, None]  # one question is lost at all points above some one
        on_select = len(parts.select) - lost[:, parts.select].sum(1)
        points = [
            Point(scale=float(scale), gain=float(scale), kept=int(kept))
            for scale, kept in zip(scales, on_select, strict=True)
        ]
        if chooser == "by the rule":
            chosen = choose_point(points, len(parts.select), 0.98)
        else:
            chosen = max(points, key=lambda point: point.kept)
        if chosen is None:
            continue
        row = int(np.flatnonzero(scales == chosen.scale)[0])
        kept = len(parts.certify) - int(lost[row, list(parts.certify)].sum())
        known = {"keep": 0.98, "confidence": 0.95, "seed": training, "points": len(points)}
        found += certify(
            chosen.scale, kept, select_items=len(parts.select), items=len(parts.certify), **known
        ).certified
    assert found <= 0.05 * trainings
    assert found > 0 or true_kept < 0.975 or chooser == "by the rule", "the test never certifies at all"


def test_what_keeps_well_above_the_target_is_certified_most_of_the_time() -> None:
    draw = np.random.default_rng(5)
    kept = draw.binomial(969, 0.99, size=2000)
    share = np.mean([reaches(int(each), 969, 0.98) for each in kept])
    assert 0.78 < share < 0.84
