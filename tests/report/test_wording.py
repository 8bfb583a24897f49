import pytest
from made_results import made_change, made_result, some

from secura.report.wording import (
    details,
    difference_text,
    headline,
    interval_text,
    listed,
    significance_text,
    smallest_visible_text,
    unit,
    value_text,
)

GONE = made_change("older", some(100, 100), some(4, 100))
WORSE = made_change("homes", some(100, 100), some(88, 100))
SAME = made_change("ages", some(90, 100), some(90, 100))
BETTER = made_change("sums", some(40, 100), some(80, 100))


def test_the_headline_names_the_clearest_loss_first() -> None:
    result = made_result(SAME, WORSE, GONE)
    assert headline(result) == "Broken: older, 100.0% before, 4.0% after, and 1 other task lost too."


def test_a_task_that_lost_less_than_half_is_worse_and_not_broken() -> None:
    assert headline(made_result(WORSE)) == "Worse: homes, 100.0% before, 88.0% after."


def test_without_a_loss_the_headline_says_so_and_the_details_say_what_would_not_have_shown() -> None:
    result = made_result(SAME)
    assert headline(result) == "No task lost significantly, of 1 asked."
    assert "one of less than 6.0 points would not have shown." in details(result)[-1]


def test_too_few_to_show_a_loss_is_the_headline() -> None:
    few = made_result(made_change("older", some(1, 10), some(0, 10)))
    assert headline(few).startswith("Too few to tell: 10 questions of 1 task cannot show a loss")
    ignorant = made_result(made_change("older", some(3, 200), some(0, 200)))
    assert headline(ignorant).startswith("Too few to tell: 200 questions of 1 task")
    assert headline(made_result(made_change("older", some(3, 10), some(2, 10)), SAME)).startswith("No task lost")
    assert headline(made_result(made_change("older", some(1, 100), some(90, 100)))).startswith("No task lost")


def test_gains_are_told_apart_from_losses() -> None:
    said = " ".join(details(made_result(GONE, BETTER, SAME)))
    assert "Gained significantly: sums (+40.0 points)." in said
    assert "1 task without a significant change." in said


def test_what_was_kept_is_said_with_its_counts() -> None:
    said = " ".join(details(made_result(GONE, SAME)))
    assert "Of what the base knew, 49.4% (95% interval 42.1% to 56.8%) is kept" in said
    assert "of 200 questions it answered 190 right, of which 96 are wrong now; 0 others are right now." in said


def test_gains_make_up_for_no_loss_and_few_right_answers_tell_nothing() -> None:
    said = " ".join(details(made_result(made_change("sums", [1, 0] * 50, [0, 1] * 50))))
    assert "0.0% (95% interval 0.0% to 7.1%) is kept" in said
    assert "of which 50 are wrong now; 50 others are right now." in said
    few = " ".join(details(made_result(made_change("older", some(1, 10), some(2, 10)))))
    assert "How much of what the base knew is kept: too few to tell: of 10 questions it answered 1 right" in few
    assert "%" not in few


def test_a_base_that_knew_nothing_kept_nothing() -> None:
    said = " ".join(details(made_result(made_change("older", some(0, 9), some(3, 9)))))
    assert "answered none of 9 questions right" in said


def test_perplexity_is_in_nats_and_a_rise_of_it_is_a_loss() -> None:
    change = made_change("wikitext2", [3.0, 3.1, 2.9] * 10, [3.5, 3.6, 3.4] * 10, metric="perplexity")
    assert change.lost
    assert (value_text(change, tuned=False), difference_text(change)) == ("3.00", "+0.500")
    assert unit(change) == "nats"
    assert made_result(change).kept is None
    assert headline(made_result(change)) == "Worse: wikitext2, perplexity 3.00 before, 3.50 after."


def test_no_change_has_no_sign_and_a_loss_has_a_minus() -> None:
    assert difference_text(SAME) == "0.0"
    assert difference_text(GONE) == "−96.0"
    assert interval_text(GONE).startswith("−9")
    assert [significance_text(change) for change in (GONE, SAME, BETTER)] == ["worse", "no", "better"]


def test_too_few_items_have_no_smallest_difference() -> None:
    assert smallest_visible_text(made_change("few", some(4, 4), some(3, 4))) == "none"


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (["a"], "a"),
        (["a", "b"], "a and b"),
        (["a", "b", "c", "d"], "a, b, c and d"),
        (list("abcdef"), "a, b, c and 3 more"),
    ],
)
def test_long_lists_are_cut(parts: list[str], said: str) -> None:
    assert listed(parts) == said
