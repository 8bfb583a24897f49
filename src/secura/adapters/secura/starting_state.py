"""What a new adapter holds on a layer before its first step: indices, the start of A, room for folds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from secura.adapters.secura.config import SecuraConfig
from secura.adapters.secura.factors import ChangeFactors
from secura.adapters.secura.ledger import folds_in
from secura.errors import ConfigError
from secura.numerics.cur_selection import (
    least_active_columns,
    least_active_rows,
    least_important_columns,
    least_important_rows,
    sampled_columns,
    sampled_rows,
)
from secura.numerics.natural_scale import with_unit_rms
from secura.numerics.starts import gaussian, leading_block, principal_block

RANDOM_START_SHARE = 0.1
"""With `init_weights=False`, the rms of D as a share of the rms of W."""


def selected_indices(
    weight: Tensor, r: int, config: SecuraConfig, layer_name: str, saved: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """Indices of C's columns and R's rows: the saved ones, or those the selection rule gives.

    Raises:
        ConfigError: for `selection="activation"` where nothing has been measured of the layer.
    """
    if saved:
        columns, rows = (
            torch.tensor([int(index) for index in saved[side].split()], device=weight.device)
            for side in ("columns", "rows")
        )
        return columns, rows
    if weight.is_meta:  # shapes only; the checkpoint brings the real ones
        placeholder = torch.arange(r)
        return placeholder, placeholder.clone()
    if config.selection == "least":
        return least_important_columns(weight, r), least_important_rows(weight, r)
    if config.selection == "activation":
        found = (config.activity or {}).get(layer_name)
        if found is None:
            raise ConfigError(
                f"selection is 'activation', but nothing is known of what layer {layer_name} reads and writes; call "
                "secura.adapters.measure_activity(model, config, texts) first, or leave selection at 'least'."
            )
        return least_active_columns(weight, found.inputs, r), least_active_rows(found.outputs, r).to(weight.device)
    generator = torch.Generator().manual_seed(config.selection_seed)
    return sampled_columns(weight, r, generator), sampled_rows(weight, r, generator)


def started_factor(config: SecuraConfig, weight: Tensor, row_count: int, column_count: int) -> Tensor:
    """What A begins as, of rms 1 at the natural scale; in `low_rank` the factor that takes the inputs."""
    factor = _started(config, weight, row_count, column_count)
    return with_unit_rms(factor) if config.scale == "natural" else factor


def _started(config: SecuraConfig, weight: Tensor, row_count: int, column_count: int) -> Tensor:
    start = config.start or ("gaussian" if config.change == "low_rank" else "leading_block")
    if start == "gaussian":
        # Seeded by PyTorch's own generator, as every other adapter's start is.
        seed = int(torch.randint(2**62, ()).item())
        return gaussian(row_count, column_count, torch.Generator().manual_seed(seed))
    block = leading_block if start == "leading_block" else principal_block
    return block(weight, row_count, column_count)


def empty_folds(config: SecuraConfig, factors: ChangeFactors, device: torch.device) -> dict[str, dict[str, Tensor]]:
    """Room for the folds of a saved adapter, for loaders that fill parameters without PEFT's hooks."""
    keys = (config.saved or {}).get("folds", [])
    one = factors.current_fold() if keys else {}
    return {
        key: {
            name: torch.zeros((count, *like.shape) if count > 1 else like.shape, dtype=like.dtype, device=device)
            for name, like in one.items()
        }
        for key, count in zip(keys, map(folds_in, keys), strict=True)
    }
