"""A warm-up whose first step trains.

transformers' schedules give step i of w warm-up steps the share (i − 1) / w of the peak rate, so that the first
step changes nothing, and a run of one step learns nothing. Here it is i / w; later steps are as they were.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from typing_extensions import override

from secura.training.evaluations import TrainerThatLooks


class WarmUpTrainer(TrainerThatLooks):
    """transformers' `Trainer`, but for the first step of its schedule."""

    @override
    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        is_new = self.lr_scheduler is None
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        if is_new and isinstance(scheduler, LambdaLR):
            begin_above_zero(scheduler, self.args.get_warmup_steps(num_training_steps))
        return scheduler


def begin_above_zero(scheduler: LambdaLR, warm_up_steps: int) -> None:
    """Let the steps of a fresh schedule's warm-up have the shares 1/w, 2/w, ... 1 of the peak rate."""
    scheduler.lr_lambdas = [_one_step_on(share, warm_up_steps) for share in scheduler.lr_lambdas]
    for group, peak, share in zip(
        scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True
    ):
        group["lr"] = peak * share(scheduler.last_epoch)
    scheduler._last_lr = [group["lr"] for group in scheduler.optimizer.param_groups]


def _one_step_on(share: Callable[[int], float], warm_up_steps: int) -> Callable[[int], float]:
    return lambda step: (step + 1) / warm_up_steps if step < warm_up_steps else share(step)
