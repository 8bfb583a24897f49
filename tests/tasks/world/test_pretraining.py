from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoTokenizer, LlamaForCausalLM

from secura.tasks.prompting import answer_tokens, prompt_tokens
from secura.tasks.world.knowledge import knowledge_questions
from secura.tasks.world.pretraining import Recipe, pretrain, rate_at, save, steps_of_text
from secura.tasks.world.tokenizer import train_tokenizer

pytestmark = pytest.mark.ci

SHORT = Recipe(steps=12, rows=16, warmup_steps=2)


def test_a_few_steps_lower_the_loss_and_what_is_saved_loads_again(tmp_path: Path) -> None:
    model, tokenizer, losses = pretrain(SHORT, show_progress=False)
    assert losses[-1] < losses[0]
    save(tmp_path / "model", model, tokenizer, {"note": "first"})
    save(tmp_path / "model", model, tokenizer, {"note": "second"})
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    loaded = LlamaForCausalLM.from_pretrained(tmp_path / "model").eval()
    tokens = torch.tensor([AutoTokenizer.from_pretrained(tmp_path / "model")("Where does Bram live?")["input_ids"]])
    assert_close(loaded(tokens).logits, model(tokens).logits)


def test_the_same_seed_gives_the_same_losses_and_another_seed_others() -> None:
    recipe = replace(SHORT, steps=3)
    first, again = (pretrain(recipe, show_progress=False)[2] for _ in range(2))
    assert first == again
    assert pretrain(replace(recipe, seed=1), show_progress=False)[2] != first


def test_pretraining_and_fine_tuning_join_prompt_and_answer_alike() -> None:
    tokenizer = train_tokenizer(0)
    for question in knowledge_questions(5):
        apart = [
            *tokenizer(question.prompt)["input_ids"],
            *tokenizer(f" {question.answer}")["input_ids"],
            tokenizer.eos_token_id,
        ]
        joined = [
            *prompt_tokens(tokenizer, question.prompt),
            *answer_tokens(tokenizer, question.prompt, question.answer, end=True),
        ]
        assert apart == joined


def test_the_weights_of_a_step_sum_to_one() -> None:
    step = next(steps_of_text(SHORT, train_tokenizer(0)))
    assert_close(sum(batch.weights[:, 1:].sum() for batch in step), torch.tensor(1.0))


def test_the_rate_rises_to_its_peak_and_falls_to_a_hundredth() -> None:
    recipe = Recipe()
    assert rate_at(recipe.warmup_steps, recipe) == pytest.approx(recipe.peak_rate)
    assert rate_at(recipe.steps - 1, recipe) == pytest.approx(0.01 * recipe.peak_rate, rel=0.01)


def test_a_recipe_without_steps_is_refused_with_its_value() -> None:
    with pytest.raises(ValueError, match="steps is 0"):
        Recipe(steps=0)
