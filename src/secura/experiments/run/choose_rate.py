"""`training.learning_rate=auto`: three rates, a few steps each, and the one to train with.

Each trial starts from the same weights and sees the same rows, at a constant rate and without
folds or a strategy. Chosen is the smallest rate whose loss over the last steps is within a tenth of
the best fall of the loss: a larger rate that learns hardly more forgets more.
"""

import math
import statistics
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override

from secura.continual.sequential import Sequential
from secura.continual.trained_weights import copied_values, overwrite_
from secura.errors import StoppedError, TrainingError
from secura.experiments.files import LOG_FILE
from secura.experiments.methods.defaults import default_rate
from secura.experiments.run.learn import learn_task
from secura.experiments.run.prepare import PreparedRun
from secura.experiments.settings.run import RunConfig
from secura.stop_signals import what_stopped
from secura.training.step_lines import read_step_lines

_FACTORS = (1 / 3, 1.0, 3.0)
"""The rates tried, as multiples of the method's own."""
_LEAST_STEPS, _MOST_STEPS = 5, 15
"""A trial takes a tenth of the run's steps, within these."""
_SHARE_OF_BEST_FALL = 0.9
"""A rate is good enough when the loss falls by this share of the best fall."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One rate, tried."""

    rate: float
    """Peak learning rate."""
    first: float
    """Loss of the first step, in nats a token."""
    last: float
    """Mean loss over the last third of the steps; infinite where training diverged."""


def with_chosen_rate(run: PreparedRun[RunConfig], console: Console) -> PreparedRun[RunConfig]:
    """The run with a learning rate in place of `auto`; as it is where it has one.

    Raises:
        TrainingError: if training diverges at every rate tried, or Ctrl-C stopped it.
    """
    if run.config.training.learning_rate != "auto":
        return run
    rates = [factor * default_rate(run.config) for factor in _FACTORS]
    steps = min(_MOST_STEPS, max(_LEAST_STEPS, run.task.steps // 10))
    trials = []
    for rate in rates:
        with console.status(f"trying learning rate {rate:.1e} for {steps} steps"):
            trials.append(_tried(run, rate, steps))
    chosen = chosen_rate(trials)
    tried = ", ".join(f"{trial.last:.3f} at {trial.rate:.1e}" for trial in trials)
    console.print(
        f"tried three learning rates for {steps} steps each, loss {tried}; chose {chosen:.1e}",
        highlight=False,
        soft_wrap=True,
    )
    training = run.config.training.model_copy(update={"learning_rate": chosen})
    return replace(run, config=run.config.model_copy(update={"training": training}))


def chosen_rate(trials: list[Trial]) -> float:
    """The smallest rate that is good enough.

    Raises:
        TrainingError: if none ended in a number.
    """
    finite = [trial for trial in trials if math.isfinite(trial.last)]
    if not finite:
        rates = ", ".join(f"{trial.rate:.1e}" for trial in trials)
        raise TrainingError(f"training diverges at each learning rate tried, {rates}; set a smaller one.")
    best = max(trial.first - trial.last for trial in finite)
    if best <= 0:  # nothing was learned at any rate, so the least harmful
        return min(finite, key=lambda trial: trial.last).rate
    good = [trial.rate for trial in finite if trial.first - trial.last >= _SHARE_OF_BEST_FALL * best]
    return min(good)


def _tried(run: PreparedRun[RunConfig], rate: float, steps: int) -> Trial:
    training = run.config.training.model_copy(
        update={"learning_rate": rate, "schedule": "constant", "warmup": 0.0, "save_every": steps + 1}
    )
    method = run.config.method.model_copy(update={"fold_every": None})
    trial = replace(run, config=run.config.model_copy(update={"training": training, "method": method}))
    before = copied_values(run.model)
    with tempfile.TemporaryDirectory() as folder:
        try:
            learn_task(
                trial,
                replace(run.task, steps=steps),
                run.model,
                Sequential(),
                folder=Path(folder),
                seed=run.config.training.seed,
                task_index=0,
                resume_from=None,
                callbacks=[_SaveNothing()],
            )
        except StoppedError as stop:
            raise StoppedError(
                f"stopped by {what_stopped()} while learning rates were tried, before the run began; nothing was saved."
            ) from stop
        except TrainingError:  # diverged
            diverged = True
        else:
            diverged = False
        finally:
            overwrite_(run.model, before)
        lines = read_step_lines(Path(folder) / LOG_FILE).lines
    losses = [math.inf if line["loss"] is None else line["loss"] for line in lines]
    last = statistics.fmean(losses[-max(1, steps // 3) :]) if losses and not diverged else math.inf
    return Trial(rate=rate, first=losses[0] if losses else math.inf, last=last)


class _SaveNothing(TrainerCallback):
    """A trial leaves nothing behind."""

    @override
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Withdraw the checkpoint that the last step would write."""
        del args, state, kwargs
        control.should_save = False
