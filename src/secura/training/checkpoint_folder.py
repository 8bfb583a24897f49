"""Where the trainer writes the checkpoint of the present step."""

from pathlib import Path

from transformers import TrainerState, TrainingArguments

from secura.training.checkpoints import checkpoint_of


def checkpoint_folder(args: TrainingArguments, state: TrainerState) -> Path:
    """The folder of the checkpoint that is written after this step."""
    return checkpoint_of(Path(str(args.output_dir)), state.global_step)
