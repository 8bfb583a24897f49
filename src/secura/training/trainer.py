"""The transformers `Trainer`, set up the way secura trains; nothing of its loop is rewritten.

Its warm-up begins above zero; see `warm_up`.
With several processes each takes its share of every batch; see `shared_batches`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from peft import PeftModel
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from secura.training.evaluations import Evaluations
from secura.training.examples import Example, PadToLongest
from secura.training.packing import packs, rows_apart, without_padding
from secura.training.processes import let_fsdp_shard_on_cpu, process_count, sharding
from secura.training.shared_batches import FilledExamples, SharedTrainer
from secura.training.warm_up import WarmUpTrainer

Precision = Literal["as-stored", "bf16", "fp16"]


def make_trainer(
    model: PreTrainedModel | PeftModel,
    examples: Sequence[Example],
    *,
    folder: Path,
    steps: int,
    batch_size: int,
    gradient_accumulation: int,
    learning_rate: float,
    warmup: float,
    schedule: str,
    max_grad_norm: float,
    weight_decay: float,
    seed: int,
    save_every: int,
    gradient_checkpointing: bool,
    precision: Precision,
    cpu: bool,
    pad_token: int,
    callbacks: Sequence[TrainerCallback],
    optimizer: str | None = None,
    packed_tokens: int | None = None,
    padding_free: bool = False,
    evaluations: Evaluations | None = None,
    report_to: Sequence[str] = (),
) -> Trainer:
    """Build a trainer that logs every step, saves every `save_every` steps and at the end.

    Args:
        model: the model to train, its adapter attached; what requires a gradient is trained.
        examples: what to train on, drawn in an order that `seed` fixes.
        folder: where checkpoints go; the last two are kept.
        batch_size: rows of a forward pass, over all processes; they share it evenly.
        steps: optimizer steps of the whole run.
        warmup: steps of warm-up where 1 or more, a share of all steps below 1.
        callbacks: called after Trainer's own, in this order.
        optimizer: by transformers' name; None is its own choice.
        packed_tokens: tokens of the rows that examples share; None gives each a row.
        padding_free: whether the rows of a forward pass follow one another; packed ones always do.
        evaluations: what is measured every so many steps; None measures nothing.
        report_to: trackers that the figures go to.
    """
    processes, zero = process_count(), sharding().startswith("zero")
    chosen: dict[str, Any] = {} if optimizer is None else {"optim": optimizer}
    chosen |= {"save_steps": save_every} if evaluations is None else evaluations.arguments(save_every)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=batch_size // processes,
        gradient_accumulation_steps=gradient_accumulation,
        learning_rate=learning_rate,
        warmup_steps=warmup,
        lr_scheduler_type=schedule,
        max_grad_norm=max_grad_norm,
        weight_decay=weight_decay,
        seed=seed,
        data_seed=seed,
        save_strategy="steps",
        save_total_limit=2,
        logging_strategy="steps",
        logging_steps=1,
        # The filter would replace a NaN loss by the mean of the others, and nobody would see it.
        logging_nan_inf_filter=False,
        **_checkpointing(gradient_checkpointing),
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        # DeepSpeed works on CPUs too, but accelerate would not turn it on there.
        use_cpu=cpu and not zero,
        ddp_backend="gloo" if cpu and zero else None,
        # Indices of C and R never change, and a moved reference is as large as its weight.
        ddp_broadcast_buffers=False if processes > 1 else None,
        dataloader_pin_memory=not cpu,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to=list(report_to) or "none",
        run_name=folder.name,
        project="secura",
        log_level="error",
        **chosen,
    )
    kind: type[WarmUpTrainer] = WarmUpTrainer
    dataset: Any = list(examples)
    # What is asked are questions, not rows.
    not_read: Any = None if evaluations is None else []
    collator: Any = PadToLongest(pad_token=pad_token)
    if packed_tokens is not None or padding_free:
        dataset = rows_apart(examples) if packed_tokens is None else packs(examples, packed_tokens)
        collator = without_padding(pad_token)
    if processes > 1:
        let_fsdp_shard_on_cpu()
        kind, dataset = SharedTrainer, FilledExamples(dataset, pad_token)
    trainer = kind(
        model=model,
        args=arguments,
        train_dataset=dataset,
        data_collator=collator,
        callbacks=list(callbacks),
        eval_dataset=not_read,
    )
    trainer.evaluations = evaluations
    trainer.remove_callback(PrinterCallback)
    return trainer


def _checkpointing(wanted: bool) -> dict[str, Any]:
    """Not set at all unless wanted: transformers has begun to rename these settings, and warns."""
    if not wanted:
        return {}
    # Without reentry: a frozen embedding below the first adapter would cut the gradient off.
    return {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
