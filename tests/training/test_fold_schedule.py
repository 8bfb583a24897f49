from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import nn
from transformers import TrainerControl, TrainerState, TrainingArguments

from secura import ConfigError, SecuraConfig, folded_tasks
from secura.training.fold_schedule import FoldCallback


def adapted_layer() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 10))
    return get_peft_model(model, SecuraConfig(target_modules=["0"], r=3, init_weights=False))  # type: ignore[arg-type]


def run(callback: FoldCallback, model: nn.Module, steps: int, max_steps: int) -> None:
    state = TrainerState(max_steps=max_steps)
    rest: tuple[Any, ...] = (TrainingArguments(use_cpu=True, report_to="none"), state, TrainerControl())
    for step in range(1, steps + 1):
        state.global_step = step
        callback.on_step_end(*rest, model=model)
    callback.on_train_end(*rest, model=model)


def outer_is_zero(model: nn.Module) -> bool:
    return all(not p.any() for name, p in model.named_parameters() if name.endswith("outer"))


@pytest.mark.parametrize(("steps", "folds"), [(1, False), (2, True), (3, True)])
def test_a_fold_falls_due_every_n_steps(steps: int, folds: bool) -> None:
    model = adapted_layer()
    run(FoldCallback(every=2, task="colours"), model, steps, max_steps=9)
    assert folded_tasks(model) == (["colours"] if folds else [])
    assert outer_is_zero(model) == folds


def test_a_task_folds_once_when_it_is_done_and_not_when_it_is_interrupted() -> None:
    model = adapted_layer()
    callback = FoldCallback(every="task", task="colours")
    run(callback, model, steps=3, max_steps=9)
    assert folded_tasks(model) == []
    run(callback, model, steps=9, max_steps=9)
    assert folded_tasks(model) == ["colours"]


@pytest.mark.parametrize("every", [0, -1, True, "epoch", 1.5])
def test_a_schedule_that_cannot_be_is_refused(every: Any) -> None:
    with pytest.raises(ConfigError, match="must be 'task' or a whole number"):
        FoldCallback(every=every)
