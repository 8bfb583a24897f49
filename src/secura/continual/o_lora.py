"""O-LoRA: each task learns in input directions that the tasks before it have not used.

    term = strength · Σ over layers Σ_{s<t} ‖A_s A_tᵀ‖²_F

A_s is LoRA's A after task s, shape (r, in): its rows span the input directions that task reads.
Each task has an adapter of its own, the earlier ones being merged into the base, which gives the
same output as keeping all of them. t tasks use up t · r of a layer's input directions; once those
are all of them, the term can only make A small. The first task is learned freely.

Source:
    Wang et al., Orthogonal Subspace Learning for Language Model Continual Learning,
    arXiv:2310.14152, whose text squares the entries as here; its code sums their absolute values.
    Not to be taken for PEFT's `init_lora_weights="olora"`, which is another method.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typing_extensions import override

from secura.continual.strategy import Collate, Step, Strategy
from secura.continual.trained_weights import move_beside_, trained_parameters
from secura.errors import ConfigError

_STATE_FILE = "earlier_directions.safetensors"


class OLoRA(Strategy):
    """Keeps each task's LoRA orthogonal to those of earlier tasks."""

    def __init__(self, *, strength: float = 0.5) -> None:
        """Set the push.

        Raises:
            ValueError: if `strength` is not above 0.
        """
        if not strength > 0:
            raise ValueError(f"strength is {strength}, but must be above 0.")
        self.strength = strength
        self._earlier: dict[str, Tensor] = {}

    @override
    def begin_task(self, model: nn.Module, task_index: int) -> None:
        del task_index
        if not _input_factors(model):
            raise ConfigError("o_lora separates the A factors of LoRA, but this model trains none; use PEFT's LoRA.")

    @override
    def mixed(self, rows: list[Any], batch_number: int) -> list[Any]:
        del batch_number
        return rows

    @override
    def loss_term(self, step: Step) -> Tensor | None:
        if not self._earlier:
            return None
        factors = _input_factors(step.model)
        move_beside_(self._earlier, factors)
        total: Tensor | None = None
        for name, factor in factors.items():
            wide = factor.to(torch.promote_types(factor.dtype, torch.float32))
            overlap = (self._earlier[name].to(wide.dtype) @ wide.T).square().sum()
            total = overlap if total is None else total + overlap
        return None if total is None else self.strength * total

    @override
    def after_step(self, model: nn.Module) -> None:
        del model

    @override
    def end_task(self, model: nn.Module, task_index: int, rows: Sequence[Any], collate: Collate) -> None:
        del task_index, rows, collate
        factors = _input_factors(model)
        move_beside_(self._earlier, factors)
        for name, factor in factors.items():
            own = factor.detach().float()
            self._earlier[name] = torch.cat([self._earlier.get(name, own[:0]), own])  # a copy

    @override
    def prepare_to_serve(self, model: nn.Module) -> None:
        del model

    @override
    def back_to_training(self, model: nn.Module) -> None:
        del model

    @override
    def save(self, folder: Path) -> None:
        save_file({name: rows.cpu().contiguous() for name, rows in self._earlier.items()}, folder / _STATE_FILE)

    @override
    def load(self, folder: Path) -> None:
        self._earlier = load_file(folder / _STATE_FILE)


def _input_factors(model: nn.Module) -> dict[str, nn.Parameter]:
    """LoRA's A of each adapted layer, shape (r, in), as far as it is trained."""
    return {name: weight for name, weight in trained_parameters(model).items() if ".lora_A." in name}
