"""What moves in training, and the trainers that people bring."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import adapted_models
import pytest
import torch
from adapted_models import (
    COMBINATIONS,
    adapted,
    crossed,
    first_layer,
    gpt2,
    inputs,
    llama,
    llama_config,
    logits,
    outputs,
    saved_adapter,
    secura_layers,
    small_config,
    tokens,
    two_linears,
)
from peft import PeftModel, get_peft_model
from tiny_models import save_tiny_model, tiny_tokenizer
from torch.testing import assert_close
from transformers import Trainer, TrainingArguments

from secura import SecuraConfig, fold, folded_tasks
from secura.adapters.secura.config import PRESETS
from secura.errors import InputError


def trained_parameters(model: Any) -> dict[str, torch.nn.Parameter]:
    return {name: one for name, one in model.named_parameters() if one.requires_grad}


def take_steps(model: Any, steps: int, lr: float = 0.01) -> None:
    optimizer = torch.optim.Adam(trained_parameters(model).values(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(inputs()) - 1).square().mean().backward()
        optimizer.step()


@crossed(COMBINATIONS)
def test_two_steps_move_every_adapter_parameter_and_nothing_else(choice: dict[str, str]) -> None:
    model = get_peft_model(two_linears(), small_config(**choice, output_bias=True))  # type: ignore[arg-type]
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    take_steps(model, 2)  # the first moves B alone, since A has no gradient while B is 0
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) != (".secura_change." in name), name
    assert all(".secura_change.default." in name for name in trained_parameters(model))


@crossed(COMBINATIONS)
def test_every_trained_factor_has_a_gradient_at_once_with_init_weights_false(choice: dict[str, str]) -> None:
    config = small_config(**choice, init_weights=False, output_bias=True)
    model = get_peft_model(two_linears(), config)  # type: ignore[arg-type]
    model(inputs()).square().mean().backward()
    for name, parameter in trained_parameters(model).items():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@crossed([one for one in COMBINATIONS if one["reference"] == "moving"])
def test_training_with_folds_writes_neither_the_base_nor_an_earlier_fold(choice: dict[str, str]) -> None:
    model = get_peft_model(two_linears(), small_config(**choice))  # type: ignore[arg-type]
    take_steps(model, 3)
    fold(model, "one")
    stored = [
        {name: one.clone() for name, one in entry.items()} for entry in first_layer(model)._ledger("default").entries()
    ]
    take_steps(model, 3)
    fold(model, "two")
    assert_close(first_layer(model)._ledger("default").entries()[:1], stored, rtol=0, atol=0)
    for name, weight in two_linears().named_parameters():
        module, kind = name.split(".")
        assert torch.equal(model.get_parameter(f"base_model.model.{module}.base_layer.{kind}"), weight)


def test_an_inactive_adapter_does_not_train() -> None:
    model = get_peft_model(two_linears(), small_config())  # type: ignore[arg-type]
    model.add_adapter("other", small_config())
    assert all(".default." in name for name in trained_parameters(model))
    model.set_adapter("other")
    assert all(".other." in name for name in trained_parameters(model))


@pytest.mark.parametrize("base", [llama, gpt2])
@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("norm", ["none", "paper", "released", "bounded", "row_bounded"])
def test_gradient_checkpointing_gives_the_same_gradients(base: Any, use_reentrant: bool, norm: str) -> None:
    def gradients(checkpointing: bool) -> list[torch.Tensor]:
        model = adapted(base(), llama_config(norm=norm)).train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
            model.enable_input_require_grads()
        model(tokens(), labels=tokens()).loss.backward()
        return [one.grad for one in trained_parameters(model).values() if one.grad is not None]

    plain = gradients(checkpointing=False)
    assert plain
    assert_close(gradients(checkpointing=True), plain)


@pytest.mark.parametrize("change", ["cabr", "low_rank"])
def test_a_drawn_start_follows_pytorchs_seed(change: str) -> None:
    def started(seed: int) -> torch.Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = get_peft_model(two_linears(), small_config(change=change, start="gaussian"))  # type: ignore[arg-type]
        return first_layer(model).secura_change["default"].starting_factors()[0]

    assert torch.equal(started(1), started(1))
    assert not torch.equal(started(1), started(2))


def test_a_sampled_selection_leaves_pytorchs_own_generator_alone() -> None:
    base, before = two_linears(), torch.random.get_rng_state()
    get_peft_model(base, small_config(selection="sample"))  # type: ignore[arg-type]
    assert torch.equal(torch.random.get_rng_state(), before)


COMPILE = """
import itertools, torch
from adapted_models import adapted, first_layer, inputs, moved, small_config, two_linears
from secura import fold

for norm, change, reference, folded in itertools.product(
    ["none", "paper", "bounded", "row_bounded"], ["cabr", "cur", "low_rank"], ["fixed", "moving"], [False, True]
):
    torch._dynamo.reset()
    model = adapted(two_linears(), small_config(norm=norm, change=change, reference=reference, output_bias=True))
    if folded:
        fold(model, "one")
        moved(model, seed=3)
    layer = first_layer(model)
    expected = layer(inputs())
    result = torch.compile(layer, fullgraph=True, backend="aot_eager")(inputs())
    torch.testing.assert_close(result, expected)
    trained = [one for one in layer.parameters() if one.requires_grad]
    torch.testing.assert_close(
        torch.autograd.grad(result.square().sum(), trained), torch.autograd.grad(expected.square().sum(), trained)
    )
    print(norm, change, reference, folded)
"""


@pytest.mark.slow
def test_a_layer_compiles_without_a_graph_break() -> None:
    # In a process of its own: the shape checks that the tests switch on cannot be compiled.
    here = Path(adapted_models.__file__).parent
    paths = os.pathsep.join([str(here), *sys.path])
    run = subprocess.run(
        [sys.executable, "-c", COMPILE], env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert len(run.stdout.splitlines()) == 48


# ------------------------------------------------------------------ TRL's reference adapter


@pytest.mark.parametrize("change", ["cabr", "cur", "low_rank"])
def test_a_reference_adapter_copied_by_name_equals_the_default_one(change: str) -> None:
    config = llama_config(change=change, selection="sample", output_bias=True)
    model = adapted(llama(), config)
    model.add_adapter("ref", config)
    copied = 0
    for name, parameter in model.named_parameters():
        if ".default." in name:  # as trl's GRPO, KTO and RLOO trainers look for them
            model.get_parameter(name.replace(".default.", ".ref.")).data.copy_(parameter.data)
            copied += 1
    assert copied == len(trained_parameters(model)) > 0
    expected = logits(model)
    model.set_adapter("ref")
    assert torch.equal(logits(model), expected)


# ------------------------------------------------------------------ trainers


def rows() -> list[dict[str, Any]]:
    return [{"input_ids": ids.tolist(), "labels": ids.tolist()} for ids in tokens(rows=8, length=6, seed=5)]


def train(model: Any, folder: Path, *, resume: bool | str = False, **settings: Any) -> Trainer:
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
        seed=3,
        **settings,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=rows())  # type: ignore[arg-type]
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@pytest.mark.filterwarnings("ignore")
@crossed([COMBINATIONS[0], COMBINATIONS[-2]])
def test_the_stock_trainer_trains_saves_and_resumes_to_the_same_weights(tmp_path: Path, choice: dict[str, str]) -> None:
    def fresh() -> PeftModel:
        return adapted(llama(), llama_config(**choice), seed=None)

    model = fresh()
    fold(model, "before")
    train(model, tmp_path / "whole", max_steps=4, save_steps=2)
    assert (logits(model.eval()) - logits(llama())).abs().max() > 1e-3
    resumed = fresh()
    train(resumed, tmp_path / "resumed", max_steps=4, save_steps=2, resume=str(tmp_path / "whole" / "checkpoint-2"))
    assert_close(logits(resumed.eval()), logits(model.eval()))
    assert folded_tasks(resumed) == ["before"]
    loaded = PeftModel.from_pretrained(llama(), tmp_path / "whole" / "checkpoint-4")
    assert torch.equal(logits(loaded), logits(model))


@pytest.mark.filterwarnings("ignore")
def test_the_stock_trainer_loads_the_best_checkpoint_with_its_folds(tmp_path: Path) -> None:
    model = adapted(llama(), llama_config(reference="moving"))
    fold(model, "before")
    arguments: dict[str, Any] = {
        "max_steps": 2,
        "save_steps": 1,
        "eval_steps": 1,
        "eval_strategy": "steps",
        "load_best_model_at_end": True,
        "learning_rate": 1.0,
    }
    settings = TrainingArguments(
        output_dir=str(tmp_path),
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        per_device_train_batch_size=2,
        **arguments,
    )
    trainer = Trainer(model=model, args=settings, train_dataset=rows(), eval_dataset=rows())  # type: ignore[arg-type]
    trainer.train()
    best = PeftModel.from_pretrained(llama(), trainer.state.best_model_checkpoint)  # type: ignore[arg-type]
    assert torch.equal(logits(best), logits(model.eval()))
    assert folded_tasks(model) == ["before"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("preset", ["secura", "secura-paper", "bounded-lora"])
def test_trl_trains_saves_and_reloads_with_a_secura_config(tmp_path: Path, checkpointing: bool, preset: str) -> None:
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    from transformers import AutoModelForCausalLM

    base = save_tiny_model(tmp_path / "base")
    texts = datasets.Dataset.from_dict({"text": [f"the sky is blue {number}" for number in range(8)]})
    trainer = trl.SFTTrainer(
        model=str(base),
        args=trl.SFTConfig(
            output_dir=str(tmp_path / "run"),
            max_steps=3,
            per_device_train_batch_size=2,
            learning_rate=1e-2,
            use_cpu=True,
            bf16=False,
            report_to=[],
            disable_tqdm=True,
            save_strategy="no",
            gradient_checkpointing=checkpointing,
            max_length=16,
            model_init_kwargs={"dtype": "float32"},
        ),
        train_dataset=texts,
        processing_class=tiny_tokenizer(),
        peft_config=SecuraConfig.preset(preset, r=4, task_type="CAUSAL_LM"),
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "adapter"))
    trained = trainer.model.eval()
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    start = logits(plain)
    assert (logits(trained) - start).abs().max() > 1e-5
    loaded = PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
    assert torch.equal(logits(loaded), logits(trained))
    assert list(secura_layers(loaded))


def test_training_lowers_the_loss_and_the_reloaded_model_agrees(tmp_path: Path) -> None:
    model = get_peft_model(two_linears(), small_config(tau=2.0))  # type: ignore[arg-type]
    start = float((outputs(model) - 1).square().mean())
    take_steps(model, 30)
    assert float((outputs(model) - 1).square().mean()) < 0.95 * start
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(two_linears(), tmp_path)
    assert torch.equal(outputs(loaded), outputs(model.eval()))


# ------------------------------------------------------------------ weights that are zero, or no number


@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-39, 1e-30])
@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_layer_of_zeros_or_of_the_smallest_numbers_trains_folds_and_comes_back(
    preset: str, value: float, tmp_path: Path
) -> None:
    def base() -> Any:
        model = two_linears()
        with torch.no_grad():
            model.first.weight.fill_(value)
            model.first.weight[::2] *= 3
        return model

    model = adapted(base(), SecuraConfig.preset(preset, r=4, target_modules=["first", "second"]), seed=None)
    assert torch.equal(outputs(model), outputs(base()))
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-2)
    for _ in range(3):
        model(inputs()).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    fold(model, "one")
    assert torch.isfinite(outputs(model)).all()
    loaded = PeftModel.from_pretrained(base(), saved_adapter(model, tmp_path))
    assert torch.equal(outputs(loaded), outputs(model))


@pytest.mark.parametrize("preset", sorted(PRESETS))
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_base_that_holds_nan_is_refused_by_the_name_of_the_layer(preset: str, value: float) -> None:
    base = two_linears()
    with torch.no_grad():
        base.second.weight[1, 2] = value
    with pytest.raises(InputError, match="the base weight of layer second holds NaN or infinity"):
        adapted(base, SecuraConfig.preset(preset, r=4, target_modules=["first", "second"]))
