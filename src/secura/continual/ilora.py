"""I-LoRA: a fast adapter learns, its slow average remembers, and replay holds the two together.

    slow ← keep · slow + (1 - keep) · fast                     after each optimizer step
    term = CE(replayed rows) + consistency · MSE(h_fast, h_slow)   on rows of earlier tasks

h are the hidden states of all layers at real tokens. The slow weights, an exponential average,
are the ones that are scored and saved. The first task has nothing to replay, and the average
alone acts.

Source:
    I-LoRA, Ren et al., Analyzing and Reducing Catastrophic Forgetting in Parameter Efficient
    Tuning, arXiv:2402.18865. SECURA's released code names it and has no forward for it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typing_extensions import override

from secura.continual.reservoir import ReadRow, Reservoir
from secura.continual.strategy import Collate, Step, Strategy
from secura.continual.trained_weights import (
    copied_values,
    move_beside_,
    overwrite_,
    trained_parameters,
    values_in_place,
)

_BUFFER_FILE, _SLOW_FILE = "buffer.json", "slow.safetensors"


class ILoRA(Strategy):
    """Two speeds of the same adapter; the slow one is served."""

    def __init__(
        self,
        *,
        keep: float = 0.99,
        consistency: float = 1.0,
        buffer_examples: int = 500,
        replayed_rows: int = 4,
        seed: int = 0,
        read_row: ReadRow = dict,
    ) -> None:
        """Set the two speeds and the replay.

        Args:
            keep: the share of the slow weights that stays at each step, in 0..1, 1 excluded.
            consistency: weight of the hidden states' distance.
            buffer_examples: how many examples of earlier tasks are kept.
            replayed_rows: how many of them each forward pass replays.
            seed: fixes which examples are kept and replayed.
            read_row: makes a row of its mapping, where a saved buffer is read.

        Raises:
            ValueError: if `keep` is outside 0..1, or `replayed_rows` below 1.
        """
        if not 0 <= keep < 1:
            raise ValueError(f"keep is {keep}, but must lie in 0..1, and below 1.")
        if replayed_rows < 1:
            raise ValueError(f"replayed_rows is {replayed_rows}, but must be at least 1 row.")
        self.keep = keep
        self.consistency = consistency
        self.replayed_rows = replayed_rows
        self._buffer = Reservoir(buffer_examples, seed)
        self._read_row = read_row
        self._slow: dict[str, Tensor] = {}
        self._fast: dict[str, Tensor] = {}
        self._task_index = 0

    @override
    def begin_task(self, model: nn.Module, task_index: int) -> None:
        self._task_index = task_index
        trained = trained_parameters(model)
        if self._slow.keys() != trained.keys():
            self._slow = copied_values(model)

    @override
    def mixed(self, rows: list[Any], batch_number: int) -> list[Any]:
        del batch_number
        return rows

    @override
    def loss_term(self, step: Step) -> Tensor | None:
        rows = self._buffer.draw(self.replayed_rows, (self._task_index << 32) + step.number)
        if not rows:
            return None
        device = next(step.model.parameters()).device
        batch = {name: value.to(device) for name, value in step.collate(rows).items() if isinstance(value, Tensor)}
        fast = step.model(**batch, output_hidden_states=True)
        if not self.consistency:
            return fast.loss
        with torch.no_grad(), values_in_place(step.model, self._slow):
            slow = step.model(**batch, output_hidden_states=True)
        real = batch.get("attention_mask", torch.ones_like(batch["input_ids"])).bool()
        distances = [
            (now[real] - then[real]).float().square().mean()
            for now, then in zip(fast.hidden_states, slow.hidden_states, strict=True)
        ]
        return fast.loss + self.consistency * torch.stack(distances).mean()

    @override
    @torch.no_grad()
    def after_step(self, model: nn.Module) -> None:
        trained = trained_parameters(model)
        move_beside_(self._slow, trained)
        for name, fast in trained.items():
            slow = self._slow[name]
            slow.lerp_(fast.to(slow.dtype), 1 - self.keep)

    @override
    def end_task(self, model: nn.Module, task_index: int, rows: Sequence[Any], collate: Collate) -> None:
        del model, task_index, collate
        self._buffer.add(rows)

    @override
    def prepare_to_serve(self, model: nn.Module) -> None:
        self._fast = copied_values(model)
        overwrite_(model, self._slow)

    @override
    def back_to_training(self, model: nn.Module) -> None:
        overwrite_(model, self._fast)
        self._fast = {}

    @override
    def save(self, folder: Path) -> None:
        self._buffer.save(folder / _BUFFER_FILE)
        save_file({name: value.cpu().contiguous() for name, value in self._slow.items()}, folder / _SLOW_FILE)

    @override
    def load(self, folder: Path) -> None:
        self._buffer.load(folder / _BUFFER_FILE, self._read_row)
        self._slow = load_file(folder / _SLOW_FILE)
