"""What the base thought at every position of its bank that counts: its likeliest tokens, cached.

64 log-probabilities in 16 bits, the tokens, and the mass of all others take 0.4 GB for a million tokens and are read
from disk as they are needed. So a step costs no second model and no pass of the base, and full fine-tuning, which has
no adapter to switch off, can be held to its base too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from secura.anchors.bank import BANK_FILE, AnchorBank, AnchorText
from secura.checksums import file_checksum
from secura.errors import ConfigError
from secura.evaluation.hidden_states import hidden_states
from secura.json_text import read_json
from secura.numerics.chunks import positions_at_once
from secura.numerics.divergence import likeliest
from secura.whole_files import write_json

TEACHER_FILE = "teacher.safetensors"

LIKELIEST = 64
"""Tokens kept of each position."""

_LEAST_LOG = -1e4
"""A log-probability below this is no number in 16 bits."""

_ROWS_AT_ONCE = 8


@dataclass(frozen=True, kw_only=True)
class AnchorRows:
    """Some texts of a bank as one batch, padded on the right."""

    inputs: dict[str, Tensor]
    """Tokens and attention mask, each of shape (texts, tokens)."""
    counted: Tensor
    """Which positions count, shape (texts, tokens), bool; each predicts the token after it."""


def anchor_rows(texts: Sequence[AnchorText], device: torch.device | str = "cpu") -> AnchorRows:
    """Put texts side by side."""
    width = max(len(text.tokens) for text in texts)
    tokens = torch.zeros(len(texts), width, dtype=torch.long)
    mask, counted = torch.zeros_like(tokens), torch.zeros_like(tokens, dtype=torch.bool)
    for row, text in enumerate(texts):
        length = len(text.tokens)
        tokens[row, :length] = torch.tensor(text.tokens)
        mask[row, :length] = 1
        counted[row, text.written_from - 1 : length - 1] = True
    inputs = {"input_ids": tokens.to(device), "attention_mask": mask.to(device)}
    return AnchorRows(inputs=inputs, counted=counted.to(device))


@torch.no_grad()
def write_teacher(
    folder: Path, model: nn.Module, bank: AnchorBank, *, on_progress: Callable[[int], None] | None = None
) -> None:
    """Ask the base for its next tokens, and put them beside its bank.

    Args:
        folder: of the bank.
        model: the base, in evaluation mode.
        bank: what `folder` holds.
        on_progress: called with the number of texts just read.
    """
    tokens: list[Tensor] = [torch.empty(0)] * len(bank.texts)
    log_probabilities, log_rest = list(tokens), list(tokens)
    order = sorted(range(len(bank.texts)), key=lambda index: -len(bank.texts[index].tokens))
    device = next(model.parameters()).device
    for first in range(0, len(order), _ROWS_AT_ONCE):
        batch = order[first : first + _ROWS_AT_ONCE]
        rows = anchor_rows([bank.texts[index] for index in batch], device)
        read = hidden_states(model, rows.inputs)
        count = min(LIKELIEST, read.vocabulary - 1)
        parts = [
            likeliest(read.to_logits(hidden), count)
            for hidden in read.states[rows.counted].split(positions_at_once(read.vocabulary))
        ]
        whole = [torch.cat(each).cpu() for each in zip(*parts, strict=True)]
        sizes = [bank.texts[index].counted for index in batch]
        for index, *own in zip(batch, *(each.split(sizes) for each in whole), strict=True):
            tokens[index], log_probabilities[index], log_rest[index] = own
        if on_progress:
            on_progress(len(batch))
    partial = folder / f"{TEACHER_FILE}.partial"
    save_file(
        {
            "tokens": torch.cat(tokens).int(),
            "log_probabilities": torch.cat(log_probabilities).clamp(min=_LEAST_LOG).half(),
            "log_rest": torch.cat(log_rest).clamp(min=_LEAST_LOG).float(),
        },
        partial,
    )
    about = read_json(folder / BANK_FILE)
    about["teacher"] = {"checksum": file_checksum(partial), "likeliest": tokens[0].shape[-1]}
    partial.replace(folder / TEACHER_FILE)
    write_json(folder / BANK_FILE, about)


class Teacher:
    """The cache of a bank's base, read text by text."""

    def __init__(self, folder: Path, bank: AnchorBank) -> None:
        """Open the cache.

        Args:
            folder: of the bank.
            bank: what `folder` holds.

        Raises:
            ConfigError: if it is missing, damaged or cut off.
        """
        path = folder / TEACHER_FILE
        try:
            about = read_json(folder / BANK_FILE)
            if file_checksum(path) != about["teacher"]["checksum"]:
                raise ValueError("its checksum does not match")
            self._file: Any = safe_open(path, framework="pt")
            positions = self._file.get_slice("log_rest").get_shape()[0]
            if positions != bank.tokens:
                raise ValueError(f"it is of {positions} positions, and the bank has {bank.tokens}")
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as problem:
            reason = " ".join(str(problem).split())[:200]
            raise ConfigError(
                f"the teacher cache {path} is missing, damaged or cut short ({reason}); the texts are complete, "
                "so write "
                f"it again with: secura anchors MODEL --out {folder}"
            ) from problem
        self._ends = list(accumulate(text.counted for text in bank.texts))

    def of(self, indices: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Likeliest tokens, their log-probabilities and the log of the rest, of the counted positions of some texts."""
        parts = [
            tuple(self._file.get_slice(name)[begin:end] for name in ("tokens", "log_probabilities", "log_rest"))
            for begin, end in ((self._ends[index - 1] if index else 0, self._ends[index]) for index in indices)
        ]
        tokens, log_probabilities, log_rest = (torch.cat(each) for each in zip(*parts, strict=True))
        return tokens, log_probabilities, log_rest
