"""Training on a GPU: a whole run of the command, and what strategies remember."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted_models import llama
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_models import tiny_model
from torch import nn
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from secura import FoldCallback, SecuraConfig, folded_tasks
from secura.cli.app import run
from secura.cli.exit_codes import DONE
from secura.continual.ewc import EWC
from secura.continual.ilora import ILoRA
from secura.continual.kl_anchor import KLAnchor
from secura.continual.lwf import LwF
from secura.continual.o_lora import OLoRA
from secura.continual.replay import Replay
from secura.continual.sequential import Sequential
from secura.continual.strategy import Strategy
from secura.continual.strategy_callback import StrategyCallback
from secura.evaluation.batch_size import is_out_of_memory
from secura.training.examples import Example, PadToLongest
from secura.training.memory import memory_in_use_mb

pytestmark = pytest.mark.gpu
COLLATE = PadToLongest(pad_token=0)


def read_example(row: Any) -> Example:
    return Example(tokens=list(row["tokens"]), learned_from=int(row["learned_from"]))


STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "sequential": Sequential,
    "replay": lambda: Replay(buffer_examples=6, share=0.5, read_row=read_example),
    "ewc": lambda: EWC(fisher_examples=4),
    "ewc of the weight": lambda: EWC(fisher_examples=4, protects="effective_weight"),
    "ilora": lambda: ILoRA(buffer_examples=6, replayed_rows=2, read_row=read_example),
    "kl_anchor": KLAnchor,
    "lwf": LwF,
    "o_lora": OLoRA,
}


def examples(first: int) -> list[Example]:
    return [
        Example(tokens=[first + (index + place) % 20 for place in range(4 + index % 3)], learned_from=2)
        for index in range(12)
    ]


def learn(model: PeftModel, folder: Path, device: torch.device, *callbacks: Any, first: int = 3, **more: Any) -> Any:
    settings = {
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "learning_rate": 0.05,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "use_cpu": device.type == "cpu",
    }
    trainer = Trainer(
        model=model,
        args=TrainingArguments(str(folder), **{**settings, **more}),
        train_dataset=examples(first),  # type: ignore[arg-type]
        data_collator=COLLATE,  # type: ignore[arg-type]
        callbacks=list(callbacks),
    )
    trainer.train()
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_goes_on_from_its_saved_state_as_if_it_had_never_stopped(
    name: str, device: torch.device, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = get_peft_model(tiny_model().to(device), LoraConfig(r=2, task_type="CAUSAL_LM"))  # type: ignore[arg-type]
    assert isinstance(model, PeftModel)
    strategy = STRATEGIES[name]()
    learn(model, tmp_path, device, StrategyCallback(strategy, task_index=0))
    strategy.end_task(model, 0, examples(3), COLLATE)
    (tmp_path / "state").mkdir()
    strategy.save(tmp_path / "state")
    other, loaded = copy.deepcopy(model), STRATEGIES[name]()
    loaded.load(tmp_path / "state")
    went_on = learn(model, tmp_path, device, StrategyCallback(strategy, task_index=1), first=30)
    resumed = learn(other, tmp_path, device, StrategyCallback(loaded, task_index=1), first=30)
    assert len(went_on) == 4
    assert_close(resumed, went_on, rtol=1e-4, atol=1e-5)
    strategy.prepare_to_serve(model)
    strategy.back_to_training(model)
    assert {weight.device.type for weight in model.parameters()} == {device.type}


@pytest.mark.parametrize("precision", [{}, {"bf16": True}, {"fp16": True}], ids=["as stored", "bf16", "fp16"])
@pytest.mark.parametrize("method", ["secura", "secura-paper", "cabr-lora", "cur-lora", "bounded-lora"])
def test_every_method_learns_under_the_stock_trainer(
    method: str, precision: dict[str, bool], device: torch.device, tmp_path: Path
) -> None:
    if device.type == "cpu" and "fp16" in precision:
        pytest.skip("transformers has no fp16 training on a CPU")
    torch.manual_seed(0)
    config = SecuraConfig.preset(method, r=4, task_type="CAUSAL_LM")
    model = get_peft_model(llama().to(device), config)  # type: ignore[arg-type]
    assert isinstance(model, PeftModel)
    losses = learn(model, tmp_path, device, FoldCallback(every="task"), max_steps=40, learning_rate=0.05, **precision)
    assert losses[-1] < 0.9 * losses[0]
    assert folded_tasks(model) == ["task"]


def test_gradient_checkpointing_changes_no_gradient(device: torch.device) -> None:
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = get_peft_model(tiny_model().to(device), SecuraConfig.preset("secura", r=4, init_weights=False))  # type: ignore[arg-type]
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        batch = torch.arange(5, 13, device=device)[None]
        model(input_ids=batch, labels=batch).loss.backward()
        gradients.append([weight.grad for weight in model.parameters() if weight.grad is not None])
    assert gradients[0]
    assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", ["secura", "lora", "full"])
def test_a_whole_run_of_the_command(
    method: str, device: torch.device, llama_folder: Path, rows_file: Path, retain_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = [
        *("--model", str(llama_folder), "--data", str(rows_file), "--retain", str(retain_file), "--method", method),
        *("--set", f"model.device={device.type}", "--set", "training.steps=6", "--set", "training.batch_size=4"),
        *("--set", "training.save_every=3"),
    ]
    assert run(["train", *options, "--out", str(out)]) == DONE
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    report = json.loads((out / "retention.json").read_text())
    assert report["retention"]["total"]["asked"] == 6
    assert (report["provenance"]["hardware"]["gpu"] is None) == (device.type == "cpu")
    if method != "full":
        base = AutoModelForCausalLM.from_pretrained(llama_folder)
        assert isinstance(PeftModel.from_pretrained(base, out / "adapter"), nn.Module)
    assert run(["train", "--resume", "--out", str(out)]) == DONE


def test_memory_in_use_is_that_of_the_gpu(gpu: torch.device) -> None:
    torch.cuda.reset_peak_memory_stats()
    block = torch.empty(50_000_000, dtype=torch.uint8, device=gpu)
    assert 50 <= memory_in_use_mb(gpu) < 5_000
    del block


def test_a_gpu_that_is_full_is_told_from_other_errors(gpu: torch.device) -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**50, dtype=torch.uint8, device=gpu)
    assert is_out_of_memory(raised.value)
    with pytest.raises(RuntimeError) as raised:
        torch.ones(2, device=gpu) @ torch.ones(3, device=gpu)
    assert not is_out_of_memory(raised.value)
