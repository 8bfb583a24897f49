"""LwF, learning without forgetting: on new inputs the model answers as it did before the task.

    term = strength · T² · mean over answer positions of KL(p_before^(1/T) ‖ p_model^(1/T))

p_before is the model as it was when the task began; its trained weights are kept and put in
place for one forward pass a step. The first task is learned freely.

Source:
    Li and Hoiem, Learning without Forgetting, arXiv:1606.09282.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typing_extensions import override

from secura.continual.anchored_forward import predicts_an_answer, states_of
from secura.continual.divergence import mean_divergence
from secura.continual.strategy import Collate, Step, Strategy
from secura.continual.trained_weights import copied_values, values_in_place

_BEFORE_FILE = "before.safetensors"


class LwF(Strategy):
    """Answers new inputs as it did before the task."""

    def __init__(self, *, strength: float = 1.0, temperature: float = 2.0) -> None:
        """Set the pull.

        Raises:
            ValueError: if `strength` or `temperature` is not above 0.
        """
        if not (strength > 0 and temperature > 0):
            raise ValueError(f"strength is {strength} and temperature {temperature}, but both must be above 0.")
        self.strength = strength
        self.temperature = temperature
        self._before: dict[str, Tensor] = {}
        self._task_index: int | None = None

    @override
    def begin_task(self, model: nn.Module, task_index: int) -> None:
        if task_index != self._task_index:  # a resumed task keeps what it began with
            self._before = copied_values(model) if task_index else {}
            self._task_index = task_index

    @override
    def mixed(self, rows: list[Any], batch_number: int) -> list[Any]:
        del batch_number
        return rows

    @override
    def loss_term(self, step: Step) -> Tensor | None:
        if not self._before:
            return None
        with torch.no_grad(), values_in_place(step.model, self._before):
            before = states_of(step.model, step.inputs)
        now = step.states or states_of(step.model, step.inputs)
        return self.strength * mean_divergence(
            before,
            now,
            predicts_an_answer(step.inputs),
            temperature=self.temperature,
            as_teacher=lambda: values_in_place(step.model, self._before),
        )

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
        tensors = {"task_index": torch.tensor(-1 if self._task_index is None else self._task_index)}
        tensors |= {f"before:{name}": value.cpu().contiguous() for name, value in self._before.items()}
        save_file(tensors, folder / _BEFORE_FILE)

    @override
    def load(self, folder: Path) -> None:
        tensors = load_file(folder / _BEFORE_FILE)
        index = int(tensors.pop("task_index"))
        self._task_index = None if index < 0 else index
        self._before = {name.removeprefix("before:"): value for name, value in tensors.items()}
