"""Which checkpoint a run can be resumed from: the newest whose seal holds.

One that a crash tore, or that was damaged since, is passed over.
"""

import re
from pathlib import Path

from safetensors import safe_open
from torch import nn

from secura.adapters.sharding import own_part
from secura.numerics.finite import all_finite
from secura.training.checkpoint_seal import SEAL_FILE, seal_holds


def checkpoints(folder: Path) -> list[Path]:
    """Sealed checkpoints in `folder`, newest first."""
    found = [
        path
        for path in folder.glob("checkpoint-*")
        if re.fullmatch(r"checkpoint-\d+", path.name) and (path / SEAL_FILE).is_file()
    ]
    return sorted(found, key=lambda path: -step_of(path))


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was written."""
    return int(checkpoint.name.rsplit("-", 1)[1])


def last_good_checkpoint(folder: Path) -> Path | None:
    """The newest sealed checkpoint that is undamaged and holds no NaN or infinity."""
    return next((path for path in checkpoints(folder) if _is_good(path)), None)


def damaged_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints whose files are no longer what they were when they were sealed, newest first."""
    return [path for path in checkpoints(folder) if not seal_holds(path)]


def _is_good(checkpoint: Path) -> bool:
    weights = list(checkpoint.glob("*.safetensors"))
    return seal_holds(checkpoint) and bool(weights) and all(_is_finite(path) for path in weights)


def _is_finite(path: Path) -> bool:
    with safe_open(path, framework="pt") as tensors:
        return all(all_finite(tensors.get_tensor(name)) for name in tensors.keys())  # noqa: SIM118 - no mapping


def trainable_weights_are_finite(model: nn.Module) -> bool:
    """Whether no trained weight holds NaN or infinity, as far as this process holds it."""
    return all(all_finite(own_part(weight).detach()) for weight in model.parameters() if weight.requires_grad)
