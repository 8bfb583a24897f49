import pytest
import torch
from transformers import get_scheduler

from secura.training.warm_up import begin_above_zero


def _rates(name: str, *, warm_up: int, steps: int, fixed: bool) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = get_scheduler(name, optimizer=optimizer, num_warmup_steps=warm_up, num_training_steps=steps)
    if fixed:
        begin_above_zero(scheduler, warm_up)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_a_run_of_one_step_trains_at_the_peak_rate() -> None:
    assert _rates("linear", warm_up=1, steps=1, fixed=True) == [2.0]


def test_the_warm_up_climbs_to_the_peak_from_its_first_step_on() -> None:
    rates = _rates("linear", warm_up=4, steps=10, fixed=True)
    assert rates[:5] == [0.5, 1.0, 1.5, 2.0, 2.0]


@pytest.mark.parametrize("name", ["linear", "cosine", "constant", "constant_with_warmup"])
def test_steps_after_the_warm_up_are_transformers_own(name: str) -> None:
    warm_up = 0 if name == "constant" else 3
    ours, theirs = (_rates(name, warm_up=warm_up, steps=8, fixed=fixed) for fixed in (True, False))
    assert ours[warm_up:] == theirs[warm_up:]
    assert all(rate > 0 for rate in ours)


def test_a_schedule_that_is_loaded_again_goes_on_where_it_was() -> None:
    def fresh() -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
        scheduler = get_scheduler("linear", optimizer=optimizer, num_warmup_steps=4, num_training_steps=10)
        begin_above_zero(scheduler, 4)
        return optimizer, scheduler

    optimizer, scheduler = fresh()
    for _ in range(2):
        optimizer.step()
        scheduler.step()
    again_optimizer, again = fresh()
    again_optimizer.load_state_dict(optimizer.state_dict())
    again.load_state_dict(scheduler.state_dict())
    for each in (scheduler, again):
        each.step()
    assert optimizer.param_groups[0]["lr"] == again_optimizer.param_groups[0]["lr"] == 2.0
