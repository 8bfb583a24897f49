"""A language model of two parameters and two tokens, small enough to follow with a pencil.

After a token x the next one is 1 with probability sigmoid(z), z = slope · (x + 1) + offset. The adapter is what
was added to the base's (slope, offset); its hidden state is z.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers.utils import ModelOutput


class TwoParameterModel(nn.Module):
    def __init__(self, slope: float, offset: float, base: tuple[float, float] = (0.0, 0.0)) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope, dtype=torch.float64))
        self.offset = nn.Parameter(torch.tensor(offset, dtype=torch.float64))
        self.base = base
        self.adapted = True
        self.config = SimpleNamespace(use_cache=False)

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        self.adapted = False
        try:
            yield
        finally:
            self.adapted = True

    def forward(self, input_ids: Tensor, labels: Tensor | None = None, **_: Any) -> ModelOutput:
        slope, offset = self.base
        if self.adapted:
            slope, offset = slope + self.slope, offset + self.offset
        score = slope * (input_ids.double() + 1) + offset
        logits = torch.stack([torch.zeros_like(score), score], dim=-1)
        loss = None
        if labels is not None:
            loss = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        return ModelOutput(loss=loss, logits=logits, hidden_states=(score[..., None],))


def collate(rows: list[Any]) -> dict[str, Tensor]:
    """Rows are lists of tokens of one length; all but the first are learned."""
    tokens = torch.tensor([row["tokens"] for row in rows])
    labels = tokens.clone()
    labels[:, 0] = -100
    return {"input_ids": tokens, "labels": labels, "attention_mask": torch.ones_like(tokens)}


def row(*tokens: int) -> dict[str, list[int]]:
    return {"tokens": list(tokens)}
