"""`log.jsonl`: one line a step, so that a run can be looked at afterwards."""

import json
import math
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from secura.json_text import parsed_json
from secura.training.memory import memory_in_use_mb
from secura.whole_files import write_text


class StepLog(TrainerCallback):
    """Appends step, loss, gradient norm, learning rate, memory and a strategy's figures of every step to a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Forget the steps that a resumed run will take again."""
        del args, control, kwargs
        kept = []
        if self.path.exists() and state.global_step:
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
            kept = [line for line in lines if _step(line) <= state.global_step]
        write_text(self.path, "".join(line + "\n" for line in kept))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Append one line."""
        del control, kwargs
        if not logs or "loss" not in logs:
            return
        line = {
            "step": state.global_step,
            "loss": _finite(logs["loss"]),
            "grad_norm": _finite(logs.get("grad_norm")),
            "learning_rate": logs.get("learning_rate"),
            "memory_mb": round(memory_in_use_mb(args.device)),
        }
        line |= {name: _finite(value) for name, value in logs.items() if name.startswith(("anchor_", "steer_"))}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _finite(value: float | None) -> float | None:
    """The value; null in place of NaN and infinity, which JSON does not know."""
    return value if value is not None and math.isfinite(value) else None


def _step(line: str) -> float:
    try:
        return int(parsed_json(line)["step"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return float("inf")  # a line that a crash cut short
