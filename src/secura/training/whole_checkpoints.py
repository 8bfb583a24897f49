"""Checkpoints that cannot be written, as on a full disk: one sentence, and the way on from the last one that could."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import Trainer
from typing_extensions import override

from secura.errors import TrainingError
from secura.training.checkpoint_folder import checkpoint_folder
from secura.training.checkpoints import last_good_checkpoint


class TrainerOfWholeCheckpoints(Trainer):
    """transformers' `Trainer`, but for what it says where a checkpoint cannot be written."""

    @override
    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(str(self.args.output_dir))
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, SafetensorError, RuntimeError) as problem:  # PyTorch's writer raises the last
            good = last_good_checkpoint(folder)
            where = f"the last good checkpoint is {good}" if good else "there is no checkpoint before it"
            reason = " ".join(str(problem).split())[:200]
            raise TrainingError(
                f"{checkpoint_folder(self.args, self.state)} cannot be written: {reason}; {where}; free some space, "
                "then continue it."
            ) from problem
