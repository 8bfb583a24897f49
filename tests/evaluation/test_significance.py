import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, norm

from secura.evaluation.significance import (
    compare_paired,
    fewest_significant_flips,
    holm,
    mcnemar_exact,
    paired_bootstrap,
    paired_proportions_interval,
    share_interval,
    sign_flip_test,
    smallest_detectable_difference,
    smallest_significant_difference,
)


def _flips(*, lost: int, won: int, items: int) -> tuple[list[bool], list[bool]]:
    """Answers of which `lost` flip to wrong and `won` to right; half of the others are right."""
    same = items - lost - won
    before = [True] * lost + [False] * won + [True] * (same // 2) + [False] * (same - same // 2)
    after = [False] * lost + [True] * won + before[lost + won :]
    return before, after


def _graded(seed: int, items: int, *, shift: float = 0.0) -> tuple[list[float], list[float]]:
    generator = np.random.default_rng(seed)
    before = generator.random(items)
    return before.tolist(), (before + shift + generator.normal(0, 0.2, items)).tolist()


# McNemar


def test_mcnemar_of_a_hand_worked_table() -> None:
    # 1 lost and 5 won of 30: 2 · (C(6,0) + C(6,1)) / 2⁶ = 2 · 7/64
    before, after = _flips(lost=1, won=5, items=30)
    assert mcnemar_exact(before, after) == pytest.approx(14 / 64)
    # 6 lost, none won: 2 / 2⁶
    before, after = _flips(lost=6, won=0, items=30)
    assert mcnemar_exact(before, after) == pytest.approx(2 / 64)
    # as many each way: 1, not the 2 · P(X ≥ 3) = 1.31 of the formula without its limit
    before, after = _flips(lost=3, won=3, items=30)
    assert mcnemar_exact(before, after) == 1.0


@pytest.mark.parametrize(("lost", "won"), [(0, 1), (2, 9), (40, 22), (7, 7)])
def test_mcnemar_is_scipys_binomial_test_of_the_flips(lost: int, won: int) -> None:
    before, after = _flips(lost=lost, won=won, items=100)
    assert mcnemar_exact(before, after) == pytest.approx(binomtest(won, lost + won, 0.5).pvalue)
    tail = 2 * binom.cdf(min(lost, won), lost + won, 0.5)
    assert mcnemar_exact(before, after) == pytest.approx(min(1, tail))


# Sign flips


def test_sign_flips_of_three_differences_by_hand() -> None:
    # Differences 1, 2, −4 sum to −1. Of the 8 sums ±1 ±2 ±4 (7, 5, 3, 1 and their negatives) all reach 1.
    assert sign_flip_test([0, 0, 4], [1, 2, 0]) == 1.0
    # Differences 1, 2, 4 sum to 7, which 2 of the 8 reach; an item that stays as it is changes nothing.
    assert sign_flip_test([0, 0, 0, 9], [1, 2, 4, 9]) == 2 / 8


@pytest.mark.parametrize("items", [2, 5, 12])
def test_few_sign_flips_are_counted_exactly(items: int) -> None:
    before, after = _graded(items, items, shift=0.1)
    differences = np.subtract(after, before)
    sums = [abs(np.dot(signs, differences)) for signs in itertools.product((-1, 1), repeat=items)]
    as_extreme = sum(each >= abs(differences.sum()) - 1e-12 for each in sums)
    assert sign_flip_test(before, after) == as_extreme / 2**items


def test_many_sign_flips_agree_with_the_normal_approximation_and_never_reach_0() -> None:
    before, after = _graded(5, 400, shift=0.01)
    differences = np.subtract(after, before)
    p = 2 * norm.sf(abs(differences.sum()) / math.sqrt((differences**2).sum()))
    assert 0.01 < p < 0.5
    assert sign_flip_test(before, after) == pytest.approx(p, abs=0.02)
    assert sign_flip_test([0.0] * 400, [1.0] * 400) == 1 / 10_000


def test_sign_flips_of_right_and_wrong_are_mcnemars_test() -> None:
    for lost, won in ((0, 6), (2, 9), (5, 5)):
        before, after = _flips(lost=lost, won=won, items=40)
        assert sign_flip_test(before, after) == pytest.approx(mcnemar_exact(before, after))


def test_sums_that_differ_in_their_last_bit_alone_count_as_equal() -> None:
    # 0.1 + 0.2 + 0.3 has two values in floating point, by the order of addition.
    for order in itertools.permutations([0.1, 0.2, 0.3, 0.6]):
        assert sign_flip_test([0.0] * 4, list(order)) == 2 / 16


# Intervals


def test_the_bootstrap_interval_of_many_items_is_the_normal_one() -> None:
    before, after = _graded(1, 400, shift=-0.1)
    differences = np.subtract(after, before)
    margin = norm.ppf(0.95) * differences.std() / math.sqrt(400)
    ours = paired_bootstrap(before, after, confidence=0.9)
    assert (ours.low, ours.high) == pytest.approx(
        (differences.mean() - margin, differences.mean() + margin), abs=0.05 * margin
    )


def test_the_bootstrap_of_two_items_by_hand() -> None:
    # Differences 0 and 1: the mean of two drawn is 0, ½ or 1 with probability ¼, ½, ¼.
    assert paired_bootstrap([0, 0], [0, 1], confidence=0.4).low == 0.5
    assert paired_bootstrap([0, 0], [0, 1], confidence=0.6).low == 0.0
    assert paired_bootstrap([0, 0], [0, 1], confidence=0.6).high == 1.0
    alone = paired_bootstrap([0.5], [0.2])
    assert alone.low == alone.high == pytest.approx(-0.3)


def test_the_bootstrap_is_the_same_for_a_seed_in_any_number_of_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = _graded(2, 30)
    whole = paired_bootstrap(before, after, seed=5)
    assert paired_bootstrap(before, after, seed=5) == whole
    assert paired_bootstrap(before, after, seed=6) != whole
    monkeypatch.setattr("secura.evaluation.significance._VALUES_AT_ONCE", 3_000)
    batched = paired_bootstrap(before, after, seed=5)
    assert (batched.low, batched.high) == pytest.approx((whole.low, whole.high), abs=0.01)


def test_the_interval_of_two_shares_is_that_of_the_published_example() -> None:
    # statpsych's ci.prop.ps(.05, 12, 4, 26, 6): 0.44, from 0.2548067 to 0.6251933.
    before, after = _flips(lost=4, won=26, items=48)
    interval = paired_proportions_interval(before, after)
    assert (interval.low, interval.high) == pytest.approx((0.2548067, 0.6251933), abs=1e-7)


@pytest.mark.parametrize(("lost", "won"), [(0.02, 0.005), (0.05, 0.0), (0.1, 0.1)])
def test_the_interval_of_two_shares_covers_what_it_claims_where_a_bootstrap_does_not(lost: float, won: float) -> None:
    items, covered, bootstrapped = 30, 0.0, 0.0
    for losses in range(items + 1):
        # A binomial each, the second among the items that are left: the exact trinomial distribution.
        for wins in range(items + 1 - losses):
            chance = binom.pmf(losses, items, lost) * binom.pmf(wins, items - losses, won / (1 - lost))
            if chance < 1e-5:
                continue
            before, after = _flips(lost=losses, won=wins, items=items)
            exact = paired_proportions_interval(before, after)
            covered += chance * (exact.low <= won - lost <= exact.high)
            drawn = paired_bootstrap(before, after, resamples=500)
            bootstrapped += chance * (drawn.low <= won - lost <= drawn.high)
    assert covered > 0.945
    if won < lost:
        assert bootstrapped < 0.8


def test_the_interval_of_a_share_is_clopper_and_pearsons() -> None:
    interval = share_interval(36, 40)  # 0.7634 and 0.9721 in the tables
    assert (interval.low, interval.high) == pytest.approx((0.7634, 0.9721), abs=1e-4)
    assert share_interval(100, 100).low == pytest.approx(0.025 ** (1 / 100))
    assert (share_interval(0, 20, confidence=0.9).low, share_interval(20, 20).high) == (0.0, 1.0)
    with pytest.raises(ValueError, match="confidence is 95"):
        share_interval(1, 2, confidence=95)


# What n items can show


def test_six_answers_must_flip_the_same_way() -> None:
    assert fewest_significant_flips(0.05) == 6  # 2/2⁵ = 0.0625, 2/2⁶ = 0.03125
    assert fewest_significant_flips(0.01) == 8  # 2/2⁷ = 0.0156, 2/2⁸ = 0.0078
    assert smallest_significant_difference(100) == 0.06
    assert smallest_significant_difference(6) == 1.0
    assert smallest_significant_difference(5) is None


def test_more_flips_each_way_hide_larger_differences() -> None:
    # Of 20 flips 15 must go one way: 2 · P(X ≥ 15) = 0.041, 2 · P(X ≥ 14) = 0.115. (2 · 15 − 20)/200 is 5 points.
    assert smallest_significant_difference(200, differing=20) == 0.05
    # The same with McNemar's test itself.
    assert mcnemar_exact(*_flips(lost=15, won=5, items=200)) < 0.05 < mcnemar_exact(*_flips(lost=14, won=6, items=200))


def test_a_detectable_loss_is_found_with_the_power_asked_for() -> None:
    for items, power in ((100, 0.8), (1000, 0.8), (50, 0.95)):
        loss = smallest_detectable_difference(items, power=power)
        assert loss is not None
        assert binom.sf(6 - 1, items, loss) == pytest.approx(power)
    assert smallest_detectable_difference(5) is None


def test_a_detectable_loss_among_flips_each_way_solves_connors_formula() -> None:
    for share, power in ((0.1, 0.8), (0.3, 0.9), (0.1, 0.3), (0.1, 0.5)):
        loss = smallest_detectable_difference(1000, differing=share, power=power)
        assert loss is not None
        spread = norm.ppf(0.975) * math.sqrt(share) + norm.ppf(power) * math.sqrt(share - loss**2)
        assert 1000 * loss**2 == pytest.approx(spread**2)
    assert smallest_detectable_difference(20, differing=0.01) is None


# Holm


def test_holms_correction_by_hand() -> None:
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1 are 0.02, 0.03, 0.06, 0.04; the last rises to 0.06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_holm_refuses_what_is_no_probability() -> None:
    for wrong in ([-0.1, 0.5], [1.5], [math.nan]):
        with pytest.raises(ValueError, match=r"0\.\.1"):
            holm(wrong)


@given(st.lists(st.floats(0, 1), max_size=30), st.randoms())
def test_holm_keeps_the_order_and_never_lowers_a_p_value(raw: list[float], order) -> None:
    corrected = holm(raw)
    assert all(0 <= p <= q <= 1 for p, q in zip(raw, corrected, strict=True))
    assert all(
        q <= s for p, q in zip(raw, corrected, strict=True) for r, s in zip(raw, corrected, strict=True) if p <= r
    )
    assert all(q <= min(1, len(raw) * p) for p, q in zip(raw, corrected, strict=True))  # Bonferroni is never kinder
    places = list(range(len(raw)))
    order.shuffle(places)
    assert holm([raw[place] for place in places]) == [corrected[place] for place in places]


# All of it together


def test_two_models_that_answer_alike_differ_by_nothing_with_p_1() -> None:
    same = [True] * 70 + [False] * 30
    found = compare_paired(same, same, binary=True)
    assert (found.difference, found.p, found.differing) == (0.0, 1.0, 0)
    assert found.low == -found.high
    assert found.high == pytest.approx(0.0272, abs=1e-4)  # 1.96 · √(2/102/102): what 100 items cannot rule out
    scores = [0.25, 0.5, 0.75]
    graded = compare_paired(scores, scores, binary=False)
    assert (graded.difference, graded.low, graded.high, graded.p) == (0.0, 0.0, 0.0, 1.0)
    assert (graded.differing, graded.smallest_visible) == (0, None)


def test_a_lost_family_is_significant_and_its_comparison_says_why() -> None:
    found = compare_paired(*_flips(lost=12, won=2, items=50), binary=True)
    assert found.difference == pytest.approx(-0.2)
    assert found.low < -0.2 < found.high < 0
    assert found.p == pytest.approx(binomtest(2, 14, 0.5).pvalue)
    assert found.smallest_visible == pytest.approx(10 / 50)  # 12 of 14 one way: 2 · P(X ≥ 12) = 0.013; 11 has 0.057
    assert (found.test, found.interval) == ("exact McNemar", "Bonett-Price")
    assert (found.items, found.differing, found.confidence) == (50, 14, 0.95)


def test_graded_scores_are_compared_by_resampling() -> None:
    found = compare_paired(*_graded(4, 200, shift=-0.1), binary=False, confidence=0.99)
    assert found.low < found.difference < found.high < 0
    assert found.p == pytest.approx(1 / 10_000)
    assert found.smallest_visible is not None
    assert found.smallest_visible < -found.difference
    assert (found.test, found.interval) == ("sign-flip permutation", "paired bootstrap")


def test_among_several_tasks_a_difference_must_be_larger_to_show_and_nothing_else_changes() -> None:
    for before, after, binary in ((*_flips(lost=12, won=2, items=50), True), (*_graded(4, 200), False)):
        alone = compare_paired(before, after, binary=binary)
        among = compare_paired(before, after, binary=binary, tasks=13)
        strict = compare_paired(before, after, binary=binary, confidence=1 - 0.05 / 13)
        assert among.smallest_visible == pytest.approx(strict.smallest_visible)
        assert alone.smallest_visible is not None
        assert among.smallest_visible is not None
        assert among.smallest_visible > alone.smallest_visible
        assert replace(among, smallest_visible=alone.smallest_visible) == alone


def test_one_item_shows_nothing() -> None:
    right = compare_paired([True], [False], binary=True)
    assert (right.p, right.smallest_visible) == (1.0, None)
    assert right.low <= -1.0 < 0 < right.high
    graded = compare_paired([0.5], [0.2], binary=False)
    assert (graded.p, graded.smallest_visible) == (1.0, None)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_swapping_right_and_wrong_flips_every_sign(pairs: list[tuple[bool, bool]]) -> None:
    before, after = [old for old, _ in pairs], [new for _, new in pairs]
    one, other = compare_paired(before, after, binary=True), compare_paired(after, before, binary=True)
    assert one.difference == -other.difference
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))
    assert one.p == other.p
    assert one.smallest_visible == other.smallest_visible
    assert one.low - 1e-12 <= one.difference <= one.high + 1e-12
    if one.p <= 0.05:  # the interval never doubts what the test calls significant
        assert not one.low <= 0 <= one.high
        assert one.smallest_visible is not None
        assert abs(one.difference) >= one.smallest_visible - 1e-12
    elif one.smallest_visible is not None:
        assert abs(one.difference) < one.smallest_visible


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=20))
def test_swapping_graded_scores_flips_every_sign(pairs: list[tuple[int, int]]) -> None:
    before, after = [old / 8 for old, _ in pairs], [new / 8 for _, new in pairs]
    one, other = compare_paired(before, after, binary=False), compare_paired(after, before, binary=False)
    assert one.difference == -other.difference
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))
    assert one.p == other.p
    assert one.smallest_visible == other.smallest_visible


@pytest.mark.parametrize("binary", [True, False])
def test_what_cannot_be_paired_is_refused(binary: bool) -> None:
    with pytest.raises(ValueError, match="3 scores before and 2 after"):
        compare_paired([1, 0, 1], [1, 0], binary=binary)
    with pytest.raises(ValueError, match="no scores"):
        compare_paired([], [], binary=binary)
    with pytest.raises(ValueError, match="NaN"):
        compare_paired([1, math.nan], [1, 0], binary=binary)
    with pytest.raises(ValueError, match="confidence is 95"):
        compare_paired([1, 0], [1, 1], binary=binary, confidence=95)


def test_graded_scores_are_no_right_and_wrong() -> None:
    with pytest.raises(ValueError, match=r"0\.5.*binary=False"):
        compare_paired([1, 0.5], [1, 0], binary=True)
