"""What the log of a run's steps says about gradients, memory and loss."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secura.json_text import parsed_json

_LAST_STEPS = 250
"""PEFT's training loss is the mean over that many steps, the last ones."""


@dataclass(frozen=True, kw_only=True)
class StepLines:
    """The steps of a run, in order."""

    lines: Sequence[dict[str, Any]]
    """One a step, as `secura.training.step_log` writes them."""

    @property
    def gradient_norms(self) -> list[tuple[int, float]]:
        """Step and norm of the gradient before clipping; a norm that was not finite is left out."""
        return [(line["step"], line["grad_norm"]) for line in self.lines if line["grad_norm"] is not None]

    @property
    def train_loss(self) -> float | None:
        """Mean loss over the last 250 steps; None where one was not finite, or there are none."""
        losses = [line["loss"] for line in self.lines[-_LAST_STEPS:]]
        return statistics.fmean(losses) if losses and None not in losses else None

    @property
    def memory_mb(self) -> list[float]:
        """Memory in use at each step."""
        return [line["memory_mb"] for line in self.lines]


def read_step_lines(*logs: Path) -> StepLines:
    """The steps of one log, or of several one after the other, counted on from log to log."""
    lines: list[dict[str, Any]] = []
    for log in logs:
        taken = lines[-1]["step"] if lines else 0
        text = log.read_text(encoding="utf-8") if log.is_file() else ""
        lines += [{**line, "step": line["step"] + taken} for line in map(parsed_json, text.splitlines())]
    return StepLines(lines=lines)
