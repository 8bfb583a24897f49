"""Stops training at the first loss or gradient that is NaN or infinite."""

import math
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from secura.adapters.broken_weight import first_broken_weight
from secura.errors import TrainingError
from secura.training.checkpoints import last_good_checkpoint


class StopAtNonFinite(TrainerCallback):
    """Looks at each logged step; `Trainer` logs before it saves, so no broken state is saved."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Raise `TrainingError` naming the step and the last good checkpoint, if there is one."""
        del control
        for name, noun in (("loss", "loss"), ("grad_norm", "gradient norm")):
            value = (logs or {}).get(name)
            if value is not None and not math.isfinite(value):
                what = f"the {noun} is {value}"
                raise non_finite(what, state.global_step, Path(str(args.output_dir)), kwargs.get("model"))


def non_finite(what: str, step: int, folder: Path, model: nn.Module | None) -> TrainingError:
    """The error for `what` at `step`: where the last good state is, and the way out."""
    broken = None if model is None else first_broken_weight(model, trained=False)
    if broken is not None:
        return TrainingError(
            f"{what} at step {step}, because the base model's own {broken} holds NaN or infinity; download or "
            "copy the base again."
        )
    good = last_good_checkpoint(folder)
    where = f"the last good checkpoint is {good}" if good else "there is no checkpoint before it"
    return TrainingError(f"{what} at step {step}, so training stopped; {where}; try a lower learning rate.")
