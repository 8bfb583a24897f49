"""Where the trainer writes the checkpoint of the present step."""

from pathlib import Path

from transformers import TrainerState, TrainingArguments


def checkpoint_of(folder: Path, step: int) -> Path:
    """The folder of the checkpoint that is written after a step."""
    return folder / f"checkpoint-{step}"


def checkpoint_folder(args: TrainingArguments, state: TrainerState) -> Path:
    """The folder of the checkpoint that is written after this step."""
    return checkpoint_of(Path(str(args.output_dir)), state.global_step)
