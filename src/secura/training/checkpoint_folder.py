"""Where the trainer writes the checkpoint of the present step."""

from pathlib import Path

from transformers import TrainerState, TrainingArguments


def checkpoint_folder(args: TrainingArguments, state: TrainerState) -> Path:
    """The folder of the checkpoint that is written after this step."""
    return Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
