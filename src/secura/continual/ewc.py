"""EWC, elastic weight consolidation: what mattered to earlier tasks is held near where it was.

    term = strength / 2 · Σ_t Σ_i F_{t,i} (θ_i - θ*_{t,i})²            one anchor a task
    term = strength / 2 · Σ_i F_i (θ_i - θ*_i)²,  F ← decay · F + F_t      online: one running Fisher, the last anchor

F_t is the diagonal Fisher of task t (`secura.continual.fisher`, two estimates), θ*_t the
values after it. The sum over tasks needs no more memory than one task: it equals
F (θ - c)² + constant, with F = Σ_t F_t and c = Σ_t F_t θ*_t / F.

Source:
    Kirkpatrick et al., Overcoming catastrophic forgetting in neural networks,
    arXiv:1612.00796; online form: Schwarz et al., Progress & Compress, arXiv:1805.06370.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typing_extensions import override

from secura.continual.fisher import Estimate, diagonal_fisher
from secura.continual.protected_values import EffectiveWeights, ProtectedValues, TrainedParameters
from secura.continual.strategy import Collate, Step, Strategy
from secura.continual.trained_weights import move_beside_

_STATE_FILE = "fisher.safetensors"


class EWC(Strategy):
    """A quadratic penalty, weighted by what mattered to earlier tasks."""

    def __init__(
        self,
        *,
        strength: float = 100.0,
        estimate: Estimate = "per_example",
        protects: Literal["parameters", "effective_weight"] = "parameters",
        decay: float | None = None,
        fisher_examples: int = 200,
        batch_size: int = 16,
        seed: int = 0,
    ) -> None:
        """Set the penalty.

        Args:
            strength: λ, above 0.
            estimate: how the Fisher is estimated.
            protects: the trained parameters, or the effective weight of each adapted layer;
                the second where an adapter folds or starts anew between tasks.
            decay: None keeps one anchor per task; a number in 0..1 is the online form.
            fisher_examples: examples per task from which its Fisher is estimated.
            batch_size: rows per gradient of the `batch_mean` estimate.
            seed: fixes which examples.

        Raises:
            ValueError: if `strength` is not above 0, or `decay` outside 0..1.
        """
        if not strength > 0:
            raise ValueError(f"strength is {strength}, but must be above 0.")
        if decay is not None and not 0 <= decay <= 1:
            raise ValueError(f"decay is {decay}, but must lie in 0..1: the share of the old Fisher that stays.")
        self.strength = strength
        self.estimate: Estimate = estimate
        self.decay = decay
        self.fisher_examples = fisher_examples
        self.batch_size = batch_size
        self.seed = seed
        self._values: ProtectedValues = TrainedParameters() if protects == "parameters" else EffectiveWeights()
        self._fisher: dict[str, Tensor] = {}
        self._center: dict[str, Tensor] = {}
        self._constant = 0.0

    @override
    def begin_task(self, model: nn.Module, task_index: int) -> None:
        del model, task_index

    @override
    def mixed(self, rows: list[Any], batch_number: int) -> list[Any]:
        del batch_number
        return rows

    @override
    def loss_term(self, step: Step) -> Tensor | None:
        if not self._fisher:
            return None
        total: Tensor | None = None
        values = self._values.current(step.model)
        for held in (self._fisher, self._center):
            move_beside_(held, values)
        for name, value in values.items():
            wide = value.to(torch.promote_types(value.dtype, torch.float32))
            away = wide - self._center[name]
            part = (self._fisher[name] * away.square()).sum()
            total = part if total is None else total + part
        assert total is not None
        return self.strength / 2 * (total + self._constant)

    @override
    def after_step(self, model: nn.Module) -> None:
        del model

    @override
    def end_task(self, model: nn.Module, task_index: int, rows: Sequence[Any], collate: Collate) -> None:
        fisher = diagonal_fisher(
            model,
            rows,
            collate,
            self._values,
            estimate=self.estimate,
            examples=self.fisher_examples,
            batch_size=self.batch_size,
            seed=self.seed + task_index,
        )
        for held in (self._fisher, self._center):
            move_beside_(held, fisher)
        if self.decay is not None:
            old = self._fisher
            self._fisher, self._center, self._constant = {}, {}, 0.0
            fisher = {name: new + self.decay * old.get(name, torch.zeros_like(new)) for name, new in fisher.items()}
        for name, value in self._values.current(model).items():
            self._add(name, fisher[name], value.detach().float().clone())

    def _add(self, name: str, fisher: Tensor, anchor: Tensor) -> None:
        """Complete the square with one more quadratic, F_t (θ - θ*_t)²."""
        if name not in self._fisher:
            self._fisher[name], self._center[name] = fisher, anchor
            return
        old, center = self._fisher[name], self._center[name]
        both = old + fisher
        share = torch.where(both > 0, fisher / both, torch.ones_like(both))
        self._constant += (old.double() * share * (center - anchor).double().square()).sum().item()
        self._fisher[name], self._center[name] = both, center + share * (anchor - center)

    @override
    def prepare_to_serve(self, model: nn.Module) -> None:
        del model

    @override
    def back_to_training(self, model: nn.Module) -> None:
        del model

    @override
    def save(self, folder: Path) -> None:
        tensors = {"constant": torch.tensor(self._constant, dtype=torch.float64)}
        for kind, held in (("fisher", self._fisher), ("center", self._center)):
            tensors |= {f"{kind}:{name}": value.cpu().contiguous() for name, value in held.items()}
        save_file(tensors, folder / _STATE_FILE)

    @override
    def load(self, folder: Path) -> None:
        tensors = load_file(folder / _STATE_FILE)
        self._constant = tensors.pop("constant").item()
        for kind, held in (("fisher:", self._fisher), ("center:", self._center)):
            held.clear()
            held.update({name.removeprefix(kind): value for name, value in tensors.items() if name.startswith(kind)})
