"""Learns one task under a strategy, with the four rows of each step divided in some way: a program for tests.

    python one_task.py FILE TRAINER STRATEGY ROWS_A_PASS PASSES

Started in however many processes; the main one writes the trained weights to FILE.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from adapted_models import llama
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from tiny_models import tiny_tokenizer
from torch import Tensor
from transformers import Trainer, TrainingArguments
from trl import SFTConfig, SFTTrainer

from secura.continual.ewc import EWC
from secura.continual.kl_anchor import KLAnchor
from secura.continual.lwf import LwF
from secura.continual.sequential import Sequential
from secura.continual.strategy import Strategy
from secura.continual.strategy_callback import StrategyCallback
from secura.continual.trained_weights import copied_values
from secura.training.examples import Example, PadToLongest

RATE = 0.01
STRATEGIES: dict[str, Any] = {
    "sequential": Sequential,
    "ewc": lambda: EWC(strength=1.0),
    "kl_anchor": lambda: KLAnchor(strength=2.0),
    "lwf": lambda: LwF(strength=5.0),
}
# Four rows of one length, all of them in every step, so that their order makes no difference.
ROWS = [Example(tokens=[3 + 5 * row + place for place in range(6)], learned_from=3) for row in range(4)]


def learned(trainer: str, strategy_name: str, rows_a_pass: int, passes: int) -> dict[str, Tensor]:
    """The trained weights after three steps, each over all of the four rows."""
    torch.manual_seed(0)
    model: Any = get_peft_model(llama(), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    strategy: Strategy = STRATEGIES[strategy_name]()
    strategy.begin_task(model, 0)
    strategy.end_task(model, 0, ROWS[:2], PadToLongest(pad_token=0))  # type: ignore[arg-type]
    settings = {
        "output_dir": tempfile.mkdtemp(),
        "max_steps": 3,
        "per_device_train_batch_size": rows_a_pass,
        "gradient_accumulation_steps": passes,
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": False,
    }
    callbacks = [StrategyCallback(strategy, task_index=1)]
    if trainer == "sft":
        SFTTrainer(
            model=model,
            args=SFTConfig(**settings, max_length=None, gradient_checkpointing=False),  # type: ignore[arg-type]
            train_dataset=Dataset.from_list([{"input_ids": row.tokens, "labels": row.labels} for row in ROWS]),
            processing_class=tiny_tokenizer(),
            callbacks=callbacks,  # type: ignore[arg-type]
        ).train()
    else:
        Trainer(
            model=model,
            args=TrainingArguments(**settings, remove_unused_columns=False),  # type: ignore[arg-type]
            train_dataset=ROWS,  # type: ignore[arg-type]
            data_collator=PadToLongest(pad_token=0),  # type: ignore[arg-type]
            callbacks=callbacks,  # type: ignore[arg-type]
        ).train()
    return copied_values(model)


if __name__ == "__main__":
    values = learned(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    if os.environ["RANK"] == "0":
        save_file(values, Path(sys.argv[1]))
