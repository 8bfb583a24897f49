"""A strategy on the stock `Trainer` or `SFTTrainer`: one callback, nothing of a trainer's loop rewritten.

The callback reaches a batch through the data loader's collator, and the loss through a hook on
the model's forward pass. Where the trainer takes the model's own loss, the term is added to it
and shows in its log; where it computes one from log-probabilities, as `SFTTrainer` does, the
term's gradient is added to theirs in the backward pass, and its value is logged by itself.

Either way an optimizer step counts the mean of the terms of its forward passes, in however many
of them, and on however many processes, its batch is divided.
"""

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import has_length

from secura.continual.strategy import Batch, Collate, Step, Strategy
from secura.errors import ConfigError
from secura.evaluation.hidden_states import CaughtStates, as_hidden_states, catch_hidden_states
from secura.training.checkpoint_folder import checkpoint_folder
from secura.training.stop_at_divergence import STRATEGY_TERM

STATE_FOLDER = "strategy"
"""Inside a checkpoint: what the strategy saved."""


class StrategyCallback(TrainerCallback):
    """Runs a strategy over one task."""

    def __init__(self, strategy: Strategy, *, task_index: int = 0) -> None:
        """Attach a strategy to the training of one task; make a new callback for the next task.

        Args:
            strategy: kept from task to task, since it carries what it remembers.
            task_index: which task this is, from 0.
        """
        self.strategy = strategy
        self.task_index = task_index
        self._hooks = ExitStack()
        self._caught: CaughtStates
        self._loader: DataLoader | None = None
        self._collate: Collate | None = None
        self._accumulation = 1
        self._loss_scale = 1
        self._step = 0
        self._inside = False
        self._term_sum: Tensor | None = None  # a tensor until it is logged: reading it waits for the GPU
        self._term_count = 0

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        train_dataloader: DataLoader | None = None,
        **kwargs: Any,
    ) -> None:
        """Take hold of the batches and of the loss; where training resumes, of the saved state first."""
        assert model is not None
        assert train_dataloader is not None
        _refuse(args)
        self._accumulation = args.gradient_accumulation_steps
        self._loss_scale = _loss_scale(model, args)
        self._step = state.global_step
        self.strategy.begin_task(model, self.task_index)
        collate: Any = train_dataloader.collate_fn
        mixing = _Mixing(self.strategy, collate, _batches_before(state.global_step, train_dataloader, args))
        self._loader, self._collate = train_dataloader, collate
        _set_collate(train_dataloader, mixing)
        self._caught = self._hooks.enter_context(catch_hidden_states(model))
        self._hooks.callback(model.register_forward_hook(self._add_term, with_kwargs=True).remove)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """Let the strategy follow the step."""
        assert model is not None
        self._step = state.global_step
        self.strategy.after_step(model)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Log the mean of the term since the last log, over the forward passes of this process, and what it says."""
        if logs is not None and self._term_sum is not None:
            term = self._term_sum.item() / self._term_count
            logs[STRATEGY_TERM] = state.log_history[-1][STRATEGY_TERM] = term
            self._term_sum, self._term_count = None, 0
        if logs is not None and "loss" in logs:
            logs.update(self.strategy.logged())
            state.log_history[-1].update(self.strategy.logged())

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the strategy's state into the checkpoint that has just been written, from the main process."""
        if not args.should_save:
            return
        folder = checkpoint_folder(args, state) / STATE_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        self.strategy.save(folder)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let go of the model and of the batches."""
        self.release()

    def release(self) -> None:
        """Take the hook and the mixing off again; for a training that ended in an error."""
        self._hooks.close()
        if self._loader is not None:
            _set_collate(self._loader, self._collate)
            self._loader = None

    def _add_term(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        del args
        # The terms call the model too, and are not to be added to themselves.
        if self._inside or not module.training or not torch.is_grad_enabled():
            return output
        assert self._collate is not None
        self._inside = True
        try:
            logits = getattr(output, "logits", None)
            states = self._caught.taken() or (None if logits is None else as_hidden_states(logits))
            step = Step(model=module, inputs=kwargs, states=states, collate=self._collate, number=self._step)
            term = self.strategy.loss_term(step)
        finally:
            self._inside = False
            self._caught.taken()  # those of the terms' own passes, which would be held until the next step
        if term is None:
            return output
        value = term.detach()
        self._term_sum = value if self._term_sum is None else self._term_sum + value
        self._term_count += 1
        return _with_term(output, term, self._share(kwargs, output))

    def _share(self, kwargs: dict[str, Any], output: Any) -> float:
        """The term's share in the loss of a forward pass, so that a step counts the mean over its passes.

        Gradients are averaged over the processes. A loss of one batch is also divided by the
        passes of its step. One that is normalised over the tokens of all passes is not, and is
        multiplied by the number of processes first; the gradient that joins in behind
        log-probabilities is not multiplied by anything.
        """
        if getattr(output, "log_probs", None) is not None:
            return 1 / self._passes_of_step()
        if "num_items_in_batch" in kwargs:
            return 1 / (self._passes_of_step() * self._loss_scale)
        return 1.0

    def _passes_of_step(self) -> int:
        """Forward passes of the present step on this process; the last one of an epoch may have fewer."""
        assert self._loader is not None
        if not has_length(self._loader):
            return self._accumulation
        place = self._step % -(-len(self._loader) // self._accumulation)
        return min(self._accumulation, len(self._loader) - place * self._accumulation)


class _Mixing:
    """A collator that mixes rows in before it collates."""

    def __init__(self, strategy: Strategy, collate: Collate, batches_before: int) -> None:
        self.strategy = strategy
        self.collate = collate
        self.batch_number = batches_before

    def __call__(self, rows: list[Any]) -> Batch:
        mixed = self.strategy.mixed(rows, self.batch_number)
        self.batch_number += 1
        return self.collate(mixed)


def _set_collate(loader: DataLoader, collate: Any) -> None:
    """Set the collator; accelerate's loader iterates over an inner one, and skips by the outer one's."""
    for one in (loader, getattr(loader, "base_dataloader", None)):
        if one is not None:
            one.collate_fn = collate


class _CarryTerm(torch.autograd.Function):
    """Hands a tensor on, and gives the term its gradient when the tensor is given one."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, term: Tensor) -> Tensor:
        ctx.term_shape = term.shape
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor]:
        (gradient,) = grad_outputs
        return gradient, torch.ones(ctx.term_shape, dtype=gradient.dtype, device=gradient.device)


def _with_term(output: Any, term: Tensor, share: float) -> Any:
    if getattr(output, "log_probs", None) is not None:
        output["log_probs"] = _CarryTerm.apply(output["log_probs"], share * term.to(output["log_probs"].dtype))
        return output
    if getattr(output, "loss", None) is not None:
        output["loss"] = output["loss"] + share * term.to(output["loss"].dtype)
        return output
    raise ConfigError(
        "the model returned neither a loss nor log-probabilities, so a strategy's term cannot be added; "
        "train without label smoothing and without a compute_loss_func."
    )


def _loss_scale(model: nn.Module, args: TrainingArguments) -> int:
    """What a trainer multiplies a loss by that it has normalised over the tokens of all processes."""
    if not args.average_tokens_across_devices:
        return 1
    return max(1, args.world_size // (getattr(model, "_tp_size", None) or 1))


def _refuse(args: TrainingArguments) -> None:
    if args.n_gpu > 1:
        raise ConfigError(
            f"n_gpu is {args.n_gpu}: the trainer would copy the model to each of them for every batch, and a "
            "strategy's term would not follow; start one process a GPU with torchrun, or show one with "
            "CUDA_VISIBLE_DEVICES."
        )
    if args.label_smoothing_factor:
        raise ConfigError(
            f"label_smoothing_factor is {args.label_smoothing_factor}: the trainer then ignores the model's own loss, "
            "and with it a strategy's term; set it to 0."
        )
    if args.fp16:
        raise ConfigError("fp16 scales the loss, and a strategy's term would not be scaled with it; use bf16.")
    if args.dataloader_num_workers:
        raise ConfigError(
            f"dataloader_num_workers is {args.dataloader_num_workers}, but rows are mixed in where the batches are "
            "counted; set it to 0."
        )


def _batches_before(step: int, loader: DataLoader, args: TrainingArguments) -> int:
    """How many batches an undisturbed run had collated before the first one after `step`."""
    if not step:
        return 0
    per_epoch, accumulation = len(loader), args.gradient_accumulation_steps
    steps_per_epoch = -(-per_epoch // accumulation)
    return step // steps_per_epoch * per_epoch + step % steps_per_epoch * accumulation
