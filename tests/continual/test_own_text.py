import json
from pathlib import Path
from typing import Any

import pytest
import torch
from continual.own_text_bank import tiny_bank
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from tiny_models import tiny_model, tiny_tokenizer
from torch.autograd import grad
from torch.testing import assert_close
from transformers import Trainer, TrainingArguments
from trl import SFTConfig, SFTTrainer

from secura import ConfigError
from secura.anchors.teacher import anchor_rows
from secura.continual.own_text import OwnText
from secura.continual.strategy import Step
from secura.continual.strategy_callback import STATE_FOLDER, StrategyCallback
from secura.continual.trained_weights import copied_values
from secura.numerics.divergence import divergence, divergence_from_likeliest, likeliest
from secura.training.examples import Example, PadToLongest

TOKENS = torch.arange(40).reshape(4, 10) + 3
INPUTS = {"input_ids": TOKENS, "labels": TOKENS.where(TOKENS > 20, -100), "attention_mask": torch.ones_like(TOKENS)}


@pytest.fixture(scope="module")
def bank_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("anchors") / "bank"
    tiny_bank(folder)
    return folder


def adapted(*, moved: bool = True) -> Any:
    torch.manual_seed(0)
    return get_peft_model(tiny_model(), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=not moved))


def step(model: Any, number: int = 0) -> Step:
    return Step(model=model, inputs=INPUTS, states=None, collate=lambda rows: {}, number=number)


def begun(model: Any, folder: Path, **settings: Any) -> OwnText:
    strategy = OwnText(bank=str(folder), **settings)
    strategy.begin_task(model, 1)
    return strategy


def test_a_model_that_is_still_its_base_has_not_moved(bank_folder: Path) -> None:
    model = adapted(moved=False)
    term = begun(model, bank_folder).loss_term(step(model))
    assert term is not None
    assert abs(term.item()) < 1e-6


@pytest.mark.parametrize("live", [False, True], ids=["cached", "live"])
@pytest.mark.parametrize("strength", [None, 3.0], ids=["budget", "fixed"])
def test_the_term_is_the_mean_divergence_on_the_drawn_texts(
    live: bool, strength: float | None, bank_folder: Path
) -> None:
    model = adapted()
    strategy = begun(model, bank_folder, live_teacher=live, strength=strength, share=0.5)
    term = strategy.loss_term(step(model, 5))
    assert term is not None
    same = begun(model, bank_folder, share=0.5)
    drawn = same._drawn(5, TOKENS.numel())
    assert same._bank is not None
    assert not any(same._bank.texts[index].held_out for index in drawn)
    rows = anchor_rows([same._bank.texts[index] for index in drawn])
    with torch.no_grad(), model.disable_adapter():
        base = model(**rows.inputs).logits[rows.counted]
    now = model(**rows.inputs).logits[rows.counted]
    # 64 of some 300 tokens and the rest, in 16 bits
    wanted = (divergence(base, now) if live else divergence_from_likeliest(*likeliest(base, 64), now)).mean()
    tolerance: Any = {} if live else {"rtol": 2e-2, "atol": 1e-6}  # the cache holds 11 bits
    assert_close(term, (strength or 1.0) * wanted, **tolerance)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    if live:
        assert_close(grad(term, trained), grad((strength or 1.0) * wanted, trained))


def test_the_tasks_answers_are_held_in_all_but_the_right_token(bank_folder: Path) -> None:
    model = adapted()
    plain = begun(model, bank_folder).loss_term(step(model))
    both = begun(model, bank_folder, masked_answers=True).loss_term(step(model))
    answers = INPUTS["labels"][:, 1:] >= 0
    with torch.no_grad(), model.disable_adapter():
        base = model(input_ids=TOKENS).logits[:, :-1][answers]
    now = model(input_ids=TOKENS).logits[:, :-1][answers]
    masked = divergence(base, now, left_out=TOKENS[:, 1:][answers]).mean()
    assert plain is not None
    assert both is not None
    assert_close(both - plain, masked, rtol=1e-4, atol=1e-6)  # a difference of two sums


def test_the_models_of_earlier_tasks_are_a_second_teacher_with_a_budget_of_its_own(
    bank_folder: Path, tmp_path: Path
) -> None:
    model = adapted()
    folders = [tmp_path / "one", tmp_path / "two"]
    for seed, folder in enumerate(folders):
        tiny_bank(folder, seed=seed + 1)
    alone = begun(model, bank_folder, share=0.5)
    strategy = OwnText(bank=str(bank_folder), share=0.5, task_share=0.5)
    strategy.hold_to_tasks(folders, learns_prompts=False)
    strategy.begin_task(model, 2)
    strategy.task_budget.strength = 3.0
    alone._task_index = 2
    term, base = strategy.loss_term(step(model, 5)), alone.loss_term(step(model, 5))
    drawn = strategy._drawn_of_tasks(5, TOKENS.numel())
    assert len(drawn) > 1
    assert term is not None
    assert base is not None
    nats = []
    for of_task, index in drawn:
        rows = anchor_rows([of_task.bank.texts[index]])
        with torch.no_grad(), model.disable_adapter():
            wanted = model(**rows.inputs).logits[rows.counted]
        now = model(**rows.inputs).logits[rows.counted]
        nats.append(divergence_from_likeliest(*likeliest(wanted, 64), now))
    assert_close(term - base, 3.0 * torch.cat(nats).mean(), rtol=2e-2, atol=1e-6)  # the cache holds 11 bits
    strategy.after_step(model)
    logged = strategy.logged()
    assert logged["anchor_task_kl"] == pytest.approx(torch.cat(nats).mean().item(), rel=2e-2)
    assert logged["anchor_task_kl_budget"] == 0.02
    (tmp_path / "state").mkdir()
    strategy.save(tmp_path / "state")
    again = OwnText()
    again.load(tmp_path / "state")
    assert again.task_budget.state() == strategy.task_budget.state()
    assert again.budget.state() == strategy.budget.state()


def test_the_prompts_of_a_task_are_learned_a_little_where_its_texts_are_to_be_written(bank_folder: Path) -> None:
    model = adapted()
    plain = begun(model, bank_folder).loss_term(step(model))
    strategy = OwnText(bank=str(bank_folder), prompt_weight=0.5)
    strategy.hold_to_tasks([], learns_prompts=True)
    strategy.begin_task(model, 1)
    both = strategy.loss_term(step(model))
    assert plain is not None
    assert both is not None
    read = TOKENS[:, 1:] <= 20
    logits = model(input_ids=TOKENS).logits[:, :-1][read]
    nats = torch.nn.functional.cross_entropy(logits, TOKENS[:, 1:][read])
    assert_close(both - plain, 0.5 * nats, rtol=1e-4, atol=1e-6)


def test_the_damaged_texts_of_an_earlier_task_are_told_of_with_the_way_out(bank_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "after-01-task" / "bank"
    tiny_bank(folder)
    teacher = folder / "teacher.safetensors"
    teacher.write_bytes(teacher.read_bytes()[:-3])
    strategy = OwnText(bank=str(bank_folder))
    strategy.hold_to_tasks([folder], learns_prompts=False)
    with pytest.raises(ConfigError, match=r"texts of an earlier task in .* are damaged; .* delete .*after-01-task and"):
        strategy.begin_task(adapted(), 1)


def test_full_fine_tuning_is_held_without_an_adapter(bank_folder: Path) -> None:
    model = tiny_model()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(1.1)  # type: ignore[operator,union-attr]
    term = begun(model, bank_folder).loss_term(step(model))
    assert term is not None
    assert term.item() > 0
    term.backward()
    assert all(weight.grad is not None for weight in model.parameters())
    with pytest.raises(ConfigError, match="full fine-tuning has none"):
        begun(model, bank_folder, live_teacher=True)


def test_what_a_step_draws_depends_on_its_number_and_pass_alone(bank_folder: Path) -> None:
    model = adapted()
    first, second = (begun(model, bank_folder, share=0.5) for _ in range(2))
    drawn = [first._drawn(number, 40) for number in (0, 0, 1)]
    assert drawn[0] != drawn[1]  # two passes of one step
    assert second._drawn(1, 40) == drawn[2]
    assert len(first._drawn(2, 1)) == 1  # one text at least
    assert begun(model, bank_folder, every_steps=3).loss_term(step(model, 4)) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"share": 0.0}, "share is 0.0"),
        ({"share": 1.5}, "share is 1.5"),
        ({"strength": 0.0}, "strength is 0.0"),
        ({"budget_nats": -1.0}, "budget_nats is -1.0"),
        ({"every_steps": 0}, "every_steps is 0"),
        ({"texts": 1}, "texts is 1"),
        ({"task_texts": -1}, "task_texts is -1"),
        ({"task_share": 0.0}, "for none set task_texts to 0"),
        ({"task_budget_nats": 0.0}, "task_budget_nats is 0.0"),
        ({"prompt_weight": -0.1}, "prompt_weight is -0.1"),
    ],
)
def test_values_out_of_range_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OwnText(**settings)


def test_a_folder_without_a_bank_or_with_another_bases_is_refused(bank_folder: Path, tmp_path: Path) -> None:
    model = adapted()
    with pytest.raises(ConfigError, match="own_text needs an anchor bank"):
        OwnText().begin_task(model, 0)
    with pytest.raises(ConfigError, match="holds no anchor bank"):
        begun(model, tmp_path)
    small: Any = tiny_model()
    small.resize_token_embeddings(40)
    with pytest.raises(ConfigError, match="this model knows 40; it is a bank of another base"):
        begun(small, bank_folder)


ROWS = [Example(tokens=[3 + row + place for place in range(6)], learned_from=2) for row in range(8)]


def trained(folder: Path, bank: Path, kind: str = "trainer", *, resume: bool = False, **more: Any) -> tuple[Any, Any]:
    """A trainer that has taken its steps, and its strategy."""
    model, strategy = adapted(), OwnText(bank=str(bank), share=0.5)
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": 6,
        "per_device_train_batch_size": 2,
        "learning_rate": 0.05,
        "save_steps": 3,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": False,
        **more,
    }
    if kind == "sft":
        trainer: Any = SFTTrainer(
            model=model,
            args=SFTConfig(**settings, max_length=None, gradient_checkpointing=False),
            train_dataset=Dataset.from_list([{"input_ids": row.tokens, "labels": row.labels} for row in ROWS]),
            processing_class=tiny_tokenizer(),
            callbacks=[StrategyCallback(strategy)],
        )
    else:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(**settings, remove_unused_columns=False),
            train_dataset=ROWS,  # type: ignore[arg-type]
            data_collator=PadToLongest(pad_token=0),  # type: ignore[arg-type]
            callbacks=[StrategyCallback(strategy)],
        )
    checkpoint = folder / "checkpoint-3"
    if resume:
        strategy.load(checkpoint / STATE_FOLDER)
    trainer.train(resume_from_checkpoint=str(checkpoint) if resume else None)
    return trainer, strategy


@pytest.mark.parametrize("kind", ["trainer", "sft"])
def test_stock_trainers_log_what_the_budget_does(kind: str, bank_folder: Path, tmp_path: Path) -> None:
    trainer, strategy = trained(tmp_path, bank_folder, kind)
    logged = [entry for entry in trainer.state.log_history if "anchor_kl" in entry]
    assert len(logged) == 6
    assert logged[0]["anchor_strength"] == 1.0
    assert logged[-1]["anchor_kl_mean"] == strategy.budget.mean
    assert {entry["anchor_kl_budget"] for entry in logged} == {0.02}
    assert logged[-1]["anchor_kl"] != logged[0]["anchor_kl"]
    assert strategy.held_out_divergence(trainer.model) > 0


def test_a_resumed_run_goes_on_to_the_bit(bank_folder: Path, tmp_path: Path) -> None:
    whole, strategy = trained(tmp_path, bank_folder)
    values, state = copied_values(whole.model), strategy.budget.state()
    assert json.loads((tmp_path / "checkpoint-3" / STATE_FOLDER / "budget.json").read_text()) != state
    resumed, again = trained(tmp_path, bank_folder, resume=True)
    assert again.budget.state() == state
    for name, value in copied_values(resumed.model).items():
        assert torch.equal(value, values[name])


def test_passes_of_a_step_have_texts_of_their_own_and_count_once(bank_folder: Path, tmp_path: Path) -> None:
    trainer, _ = trained(tmp_path, bank_folder, gradient_accumulation_steps=2, per_device_train_batch_size=1)
    logged = [entry for entry in trainer.state.log_history if "anchor_kl" in entry]
    assert len(logged) == 6
    # What the callback added is the mean over the passes of λ k.
    assert logged[0]["continual_loss"] == pytest.approx(logged[0]["anchor_kl"] * logged[0]["anchor_strength"])
