from collections import Counter

import pytest

from secura.evaluation.probe_split import split_probe

FAMILIES = ["geography"] * 103 + ["numbers"] * 40 + ["one of a kind"] + ["words"] * 6


def test_every_question_is_in_one_part_and_each_part_has_its_share_of_every_family() -> None:
    parts = split_probe(FAMILIES, seed=3)
    assert sorted([*parts.steer, *parts.select, *parts.certify]) == list(range(150))
    assert (len(parts.steer), len(parts.select), len(parts.certify)) == (30, 60, 60)
    for part, share in ((parts.steer, 0.2), (parts.select, 0.4), (parts.certify, 0.4)):
        counts = Counter(FAMILIES[place] for place in part)
        for family, count in Counter(FAMILIES).items():
            assert abs(counts[family] - share * count) < 1.5, family


def test_the_seed_alone_decides() -> None:
    assert split_probe(FAMILIES, seed=3) == split_probe(FAMILIES, seed=3)
    assert split_probe(FAMILIES, seed=3) != split_probe(FAMILIES, seed=4)


def test_a_question_is_as_likely_in_one_place_as_in_another() -> None:
    counts = Counter(place for seed in range(400) for place in split_probe(["a"] * 5, seed=seed, steer=0).certify)
    assert all(180 < counts[place] < 300 for place in range(5)), counts  # 3 of 5 places, drawn 400 times: 240 each


@pytest.mark.parametrize(("steer", "select"), [(0.5, 0.5), (-0.1, 0.2), (0.9, 0.4)])
def test_shares_that_leave_nothing_to_certify_with_are_refused(steer: float, select: float) -> None:
    with pytest.raises(ValueError, match="must leave some to certify"):
        split_probe(FAMILIES, seed=0, steer=steer, select=select)
