from pathlib import Path
from typing import Any

import launched_processes
import pytest
import torch
from continual import one_task
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from tiny_models import tiny_model, tiny_tokenizer
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Trainer, TrainerCallback, TrainingArguments
from trl import SFTConfig, SFTTrainer

from secura import ConfigError, SecuraConfig
from secura.continual.ewc import EWC
from secura.continual.ilora import ILoRA
from secura.continual.kl_anchor import KLAnchor
from secura.continual.lwf import LwF
from secura.continual.o_lora import OLoRA
from secura.continual.replay import Replay
from secura.continual.sequential import Sequential
from secura.continual.strategy import Step, Strategy
from secura.continual.strategy_callback import STATE_FOLDER, StrategyCallback
from secura.continual.trained_weights import copied_values, trained_parameters
from secura.training.examples import Example, PadToLongest

RATE = 0.5


class SumOfWeights(Sequential):
    """A term whose gradient is 1 in every trained weight."""

    def loss_term(self, step: Step) -> Tensor | None:
        return torch.stack([weight.sum() for weight in trained_parameters(step.model).values()]).sum()


def adapted(config: Any = None) -> PeftModel:
    torch.manual_seed(0)
    model = get_peft_model(tiny_model(), config or LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    assert isinstance(model, PeftModel)
    return model


def examples(count: int, first: int = 3) -> list[Example]:
    return [
        Example(tokens=[first + (index + place) % 20 for place in range(4 + index % 3)], learned_from=2)
        for index in range(count)
    ]


def arguments(kind: Any, folder: Path, **more: Any) -> Any:
    settings = {
        "output_dir": str(folder),
        "max_steps": 1,
        "per_device_train_batch_size": 2,
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": False,
        "logging_steps": 1,
    }
    return kind(**{**settings, **more})


def with_trainer(folder: Path, strategy: Strategy, *, task_index: int = 0, model: Any = None, **more: Any) -> Trainer:
    return Trainer(
        model=model or adapted(),
        args=arguments(TrainingArguments, folder, remove_unused_columns=False, **more),
        train_dataset=examples(24),  # type: ignore[arg-type]
        data_collator=PadToLongest(pad_token=0),  # type: ignore[arg-type]
        callbacks=[StrategyCallback(strategy, task_index=task_index)],
    )


def with_sft_trainer(folder: Path, strategy: Strategy, **more: Any) -> Trainer:
    rows = [{"input_ids": one.tokens, "labels": one.labels} for one in examples(24)]
    return SFTTrainer(
        model=adapted(),
        args=arguments(SFTConfig, folder, max_length=None, gradient_checkpointing=False, **more),
        train_dataset=Dataset.from_list(rows),
        processing_class=tiny_tokenizer(),
        callbacks=[StrategyCallback(strategy)],
    )


@pytest.mark.parametrize("build", [with_trainer, with_sft_trainer])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_the_terms_gradient_is_added_once_a_step_however_many_batches_make_it(
    build: Any, accumulation: int, tmp_path: Path
) -> None:
    after = []
    for strategy in (Sequential(), SumOfWeights()):
        trainer = build(tmp_path, strategy, gradient_accumulation_steps=accumulation)
        trainer.train()
        after.append(copied_values(trainer.model))
    for name, without in after[0].items():
        assert_close(without - after[1][name], torch.full_like(without, RATE), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("build", [with_trainer, with_sft_trainer])
def test_the_term_shows_in_the_log(build: Any, tmp_path: Path) -> None:
    trainer = build(tmp_path, SumOfWeights())
    trainer.train()
    assert "continual_loss" in trainer.state.log_history[0]


def test_nothing_is_left_on_the_model_or_its_batches_afterwards(tmp_path: Path) -> None:
    trainer = with_trainer(tmp_path, SumOfWeights())
    trainer.train()
    assert trainer.model is not None
    assert not trainer.model._forward_hooks


def in_its_second_task(strategy: Strategy, model: nn.Module) -> Strategy:
    """A strategy that has seen a task, so that it has something to protect."""
    strategy.begin_task(model, 0)
    strategy.end_task(model, 0, examples(12, first=9), PadToLongest(pad_token=0))  # type: ignore[arg-type]
    return strategy


class _NotesItsBatches(Sequential):
    def __init__(self) -> None:
        self.batches: list[tuple[int, int]] = []

    def mixed(self, rows: list[Any], batch_number: int) -> list[Any]:
        self.batches.append((batch_number, len(rows)))
        return rows


@pytest.mark.parametrize("build", [with_trainer, with_sft_trainer])
def test_every_batch_is_mixed_and_counted(build: Any, tmp_path: Path) -> None:
    strategy = _NotesItsBatches()
    build(tmp_path, strategy, max_steps=14).train()  # an epoch has 12 batches
    assert strategy.batches[:14] == [(number, 2) for number in range(14)]


def read_row(row: Any) -> Example:
    return Example(**row)


@pytest.mark.ci
@pytest.mark.parametrize(
    "build",
    [
        lambda: Replay(buffer_examples=6, share=0.5, read_row=read_row),
        lambda: EWC(strength=50.0),
        lambda: EWC(strength=50.0, protects="effective_weight"),
        lambda: ILoRA(keep=0.8, replayed_rows=2, read_row=read_row),
        lambda: KLAnchor(strength=2.0),
        lambda: LwF(strength=2.0),
    ],
    ids=["replay", "ewc", "ewc on weights", "ilora", "kl anchor", "lwf"],
)
@pytest.mark.parametrize(
    "config",
    [
        pytest.param(None, id="lora"),
        pytest.param(SecuraConfig(target_modules=["q_proj"], r=4), id="secura", marks=pytest.mark.slow),
    ],
)
def test_a_resumed_task_ends_with_the_same_bits(build: Any, config: Any, tmp_path: Path) -> None:
    many = {"max_steps": 7, "save_strategy": "steps", "save_steps": 4, "optim": "adamw_torch", "learning_rate": 1e-2}

    def trainer(folder: Path) -> tuple[Trainer, Strategy]:
        model = adapted(config)
        strategy = in_its_second_task(build(), model)
        return with_trainer(folder, strategy, task_index=1, model=model, **many), strategy

    undisturbed, strategy = trainer(tmp_path / "a")
    undisturbed.train()
    assert undisturbed.model is not None
    strategy.prepare_to_serve(undisturbed.model)

    stopped, _ = trainer(tmp_path / "b")
    stopped.add_callback(_StopAfterSave())
    stopped.train()
    checkpoint = tmp_path / "b" / "checkpoint-4"
    again = build()
    again.load(checkpoint / STATE_FOLDER)
    resumed = with_trainer(tmp_path / "b", again, task_index=1, model=adapted(config), **many)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert resumed.model is not None
    again.prepare_to_serve(resumed.model)
    for name, value in copied_values(undisturbed.model).items():
        assert_close(copied_values(resumed.model)[name], value, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("build", [lambda: EWC(strength=1e4), lambda: EWC(strength=1e4, protects="effective_weight")])
def test_a_strong_penalty_holds_the_model_where_it_was(build: Any, tmp_path: Path) -> None:
    moved = []
    for strategy in (Sequential(), build()):
        model = adapted()
        before = copied_values(model)
        in_its_second_task(strategy, model)
        trainer = with_trainer(
            tmp_path, strategy, task_index=1, model=model, max_steps=20, optim="adamw_torch", learning_rate=1e-2
        )
        trainer.train()
        after = copied_values(model)
        moved.append(sum((after[name] - before[name]).square().sum().item() for name in before))
    assert moved[1] < moved[0] / 2


def test_o_lora_turns_a_new_adapter_away_from_earlier_directions(tmp_path: Path) -> None:
    def overlap(model: nn.Module, earlier: dict[str, Tensor]) -> float:
        return sum((earlier[name] @ value.T).square().sum().item() for name, value in factors(model).items())

    def factors(model: nn.Module) -> dict[str, Tensor]:
        return {name: value for name, value in copied_values(model).items() if "lora_A" in name}

    left = []
    for strategy in (Sequential(), OLoRA(strength=100.0)):
        model = adapted()
        earlier = factors(model)
        in_its_second_task(strategy, model)
        for name, value in factors(adapted()).items():  # the next task's adapter begins near the earlier one
            model.get_parameter(name).data.copy_(value + 0.1)
        with_trainer(
            tmp_path, strategy, task_index=1, model=model, max_steps=60, optim="adamw_torch", learning_rate=3e-2
        ).train()
        left.append(overlap(model, earlier))
    assert left[1] < left[0] / 100


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"label_smoothing_factor": 0.1}, "label_smoothing_factor is 0.1"), ({"dataloader_num_workers": 2}, "is 2")],
)
def test_what_would_drop_the_term_is_refused(setting: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        with_trainer(tmp_path, SumOfWeights(), **setting).train()


class _StopAfterSave(TrainerCallback):
    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = True


# ------------------------------------------------------------------ one batch, divided


PROGRAM = Path(one_task.__file__)
PENALTIES = ["ewc", "kl_anchor", "lwf"]


@pytest.mark.parametrize("trainer", ["plain", pytest.param("sft", marks=pytest.mark.slow)])
@pytest.mark.parametrize("strategy", PENALTIES)
def test_a_penalty_is_as_strong_in_one_pass_as_in_several(strategy: str, trainer: str) -> None:
    at_once = one_task.learned(trainer, strategy, 4, 1)
    without = one_task.learned(trainer, "sequential", 4, 1)
    assert max((at_once[name] - without[name]).abs().max() for name in at_once) > 1e-3  # it does something
    assert_close(one_task.learned(trainer, strategy, 1, 4), at_once, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["plain", "sft"])
@pytest.mark.parametrize("strategy", PENALTIES)
@pytest.mark.parametrize(("rows_a_pass", "passes"), [(2, 1), (1, 2)])
def test_a_penalty_is_as_strong_on_two_processes_as_on_one(
    strategy: str, trainer: str, rows_a_pass: int, passes: int, tmp_path: Path
) -> None:
    file = tmp_path / "values.safetensors"
    arguments = [str(PROGRAM), str(file), trainer, strategy, str(rows_a_pass), str(passes)]
    ended = launched_processes.run(arguments)
    assert [each.code for each in ended] == [0, 0], ended[0].errors + ended[1].errors
    assert_close(load_file(file), one_task.learned(trainer, strategy, 4, 1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("build", [with_trainer, with_sft_trainer])
def test_the_short_last_step_of_an_epoch_counts_the_whole_term(build: Any, tmp_path: Path) -> None:
    after = []
    for strategy in (Sequential(), SumOfWeights()):
        trainer = build(tmp_path, strategy, gradient_accumulation_steps=5, max_steps=4)  # 5, 5 and 2 of 12 batches, 5
        trainer.train()
        after.append(copied_values(trainer.model))
    for name, without in after[0].items():
        # 2e-2: the term moves the weights, and with them the gradient of the task.
        assert_close(without - after[1][name], torch.full_like(without, 4 * RATE), rtol=2e-2, atol=2e-2)


def test_copies_of_a_model_on_several_gpus_of_one_process_are_refused(tmp_path: Path) -> None:
    trainer = with_trainer(tmp_path, SumOfWeights())
    trainer.args._n_gpu = 2
    (callback,) = [one for one in trainer.callback_handler.callbacks if isinstance(one, StrategyCallback)]
    with pytest.raises(ConfigError, match="n_gpu is 2"):
        callback.on_train_begin(
            trainer.args, trainer.state, trainer.control, trainer.model, trainer.get_train_dataloader()
        )


def test_a_term_is_not_read_before_it_is_logged(tmp_path: Path) -> None:
    model = adapted()
    strategy = in_its_second_task(EWC(strength=50.0), model)
    trainer = with_trainer(tmp_path, strategy, task_index=1, model=model, max_steps=4, logging_steps=2)
    (callback,) = [one for one in trainer.callback_handler.callbacks if isinstance(one, StrategyCallback)]
    add_term, seen = callback._add_term, []

    def watched(*arguments: Any) -> Any:
        with _NotesOperations() as noted:
            output = add_term(*arguments)
        seen.extend(noted.names)
        return output

    callback._add_term = watched  # type: ignore[method-assign]
    trainer.train()
    assert "aten.mul.Tensor" in seen
    assert "aten._local_scalar_dense.default" not in seen  # what item() and float() are, and wait for the GPU
    logged = [entry["continual_loss"] for entry in trainer.state.log_history if "continual_loss" in entry]
    assert len(logged) == 2
    assert logged[0] < logged[1]  # it moves away


class _NotesOperations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))
