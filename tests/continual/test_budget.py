import pytest

from secura.continual.budget import KLBudget


def test_the_strength_follows_the_mean_by_hand() -> None:
    budget = KLBudget(nats=0.02)
    assert (budget.strength, budget.mean) == (1.0, None)
    budget.observe(0.02)  # on the budget: nothing moves
    assert budget.mean == pytest.approx(0.02)
    assert budget.strength == pytest.approx(1.0)
    budget.observe(0.04)  # mean 0.9 · 0.02 + 0.1 · 0.04 = 0.022, which is 0.1 above: λ rises by 0.1 · 0.1
    assert budget.mean == pytest.approx(0.022)
    assert budget.strength == pytest.approx(1.01)
    budget.observe(0.3)  # mean 0.0498, 1.49 above, cut to 0.2: λ rises by 2 %
    assert budget.mean == pytest.approx(0.0498)
    assert budget.strength == pytest.approx(1.01 * 1.02)
    budget.observe(-0.4)  # mean 0.00482: cut to 0.2 below
    assert budget.strength == pytest.approx(1.01 * 1.02 * 0.98)


def test_the_strength_stays_within_its_limits() -> None:
    budget = KLBudget(nats=0.01)
    for _ in range(400):
        budget.observe(5.0)
    assert budget.strength == 10.0
    for _ in range(1000):
        budget.observe(0.0)
    assert budget.strength == pytest.approx(1e-3)


def test_another_budget_counts_from_the_next_step_on() -> None:
    budget = KLBudget(nats=0.02)
    budget.observe(0.02)
    budget.set_nats(0.01)
    budget.observe(0.02)
    assert budget.strength == pytest.approx(1.02)
    with pytest.raises(ValueError, match="budget_nats is 0"):
        budget.set_nats(0)


def test_what_is_no_number_moves_nothing() -> None:
    budget = KLBudget(nats=0.02)
    budget.observe(float("nan"))
    assert (budget.strength, budget.mean) == (1.0, None)


def test_a_loaded_budget_goes_on_to_the_bit() -> None:
    budget, other = KLBudget(nats=0.02), KLBudget(nats=1.0)
    for number in range(7):
        budget.observe(0.01 * number)
    other.load_state(budget.state())
    for number in range(7):
        budget.observe(0.03 / (number + 1))
        other.observe(0.03 / (number + 1))
    assert other.state() == budget.state()
