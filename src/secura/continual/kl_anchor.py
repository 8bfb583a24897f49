"""KL anchor: on the new task's own inputs the model stays near the base model's predictions.

    term = strength · mean over positions of KL(p_base ‖ p_model)

The base is the model with its adapter switched off, so no second model is held in memory; it costs one forward pass
without a gradient, and the logits of a few positions at a time. Which positions count is a choice: `prompt` leaves the
answer free to be learned, `answer` resists learning it, `all` is both.

Source:
    the penalty of RLHF (Ouyang et al., arXiv:2203.02155), used for supervised fine-tuning.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from secura.continual.anchored_forward import predicts_an_answer, states_of
from secura.continual.divergence import mean_divergence
from secura.continual.strategy import Collate, Step, Strategy
from secura.errors import ConfigError

Positions = Literal["prompt", "answer", "all"]


class KLAnchor(Strategy):
    """Stays near what the base model predicts."""

    def __init__(self, *, strength: float = 1.0, positions: Positions = "prompt") -> None:
        """Set the pull.

        Raises:
            ValueError: if `strength` is not above 0.
        """
        if not strength > 0:
            raise ValueError(f"strength is {strength}, but must be above 0.")
        self.strength = strength
        self.positions: Positions = positions

    @override
    def begin_task(self, model: nn.Module, task_index: int) -> None:
        del task_index
        if not hasattr(model, "disable_adapter"):
            raise ConfigError(
                "kl_anchor takes the base model's predictions by switching the adapter off, and full fine-tuning has "
                "none; choose a method with an adapter, or the strategy lwf."
            )

    @override
    def mixed(self, rows: list[Any], batch_number: int) -> list[Any]:
        del batch_number
        return rows

    @override
    def loss_term(self, step: Step) -> Tensor | None:
        model: Any = step.model
        with torch.no_grad(), model.disable_adapter():
            base = states_of(model, step.inputs)
        now = step.states or states_of(model, step.inputs)
        return self.strength * mean_divergence(base, now, self._counted(step), as_teacher=model.disable_adapter)

    def _counted(self, step: Step) -> Tensor:
        answers = predicts_an_answer(step.inputs)
        real = step.inputs.get("attention_mask")
        real = torch.ones_like(answers) if real is None else real.bool()
        if self.positions == "answer":
            return answers
        return real & ~answers if self.positions == "prompt" else real

    @override
    def after_step(self, model: nn.Module) -> None:
        del model

    @override
    def end_task(self, model: nn.Module, task_index: int, rows: Sequence[Any], collate: Collate) -> None:
        del model, task_index, rows, collate

    @override
    def prepare_to_serve(self, model: nn.Module) -> None:
        del model

    @override
    def back_to_training(self, model: nn.Module) -> None:
        del model

    @override
    def save(self, folder: Path) -> None:
        del folder

    @override
    def load(self, folder: Path) -> None:
        del folder
