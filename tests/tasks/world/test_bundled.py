import json
from dataclasses import asdict
from functools import cache

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from secura.tasks.prompting import answer_tokens, prompt_tokens
from secura.tasks.question import Question
from secura.tasks.world import KNOWLEDGE, bundled_model_path, load_bundled_model, load_bundled_tokenizer
from secura.tasks.world.knowledge import knowledge_questions
from secura.tasks.world.pretraining import Recipe

ANY_TEXT = [
    "Where does Bram live?",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich",
    "🦊👩‍🚀 heron 漢字 العربية",
    "\x00\x01\x7f\t\r\n  two  spaces , and a comma ",
    "<eo s> def f(x):\n\treturn {x: [1, 2]}",
]


@pytest.mark.parametrize("text", ANY_TEXT)
def test_any_text_survives_the_tokenizer(text: str) -> None:
    tokenizer = load_bundled_tokenizer()
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_tokenizer_has_an_end_a_padding_and_no_chat_template() -> None:
    tokenizer = load_bundled_tokenizer()
    assert tokenizer.eos_token_id is not None
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    assert not tokenizer.chat_template


def test_the_model_has_one_to_two_million_parameters_and_fits_in_eight_megabytes() -> None:
    model = load_bundled_model()
    assert 1_000_000 <= model.num_parameters() <= 2_000_000
    assert sum(file.stat().st_size for file in bundled_model_path().iterdir()) <= 8_000_000


def test_the_bundled_weights_are_the_recipe_s_output() -> None:
    record = json.loads((bundled_model_path() / "pretraining.json").read_text())
    assert record["recipe"] == asdict(Recipe())


@cache
def bundled() -> tuple[PreTrainedTokenizerFast, LlamaForCausalLM]:
    return load_bundled_tokenizer(), load_bundled_model()


def answered(question: Question) -> str:
    """The best choice by log-likelihood, or what greedy decoding would write where it first differs."""
    tokenizer, model = bundled()
    prompt = prompt_tokens(tokenizer, question.prompt)
    scores = {}
    for answer in question.choices or (question.answer,):
        tokens = answer_tokens(tokenizer, question.prompt, answer, end=not question.choices)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
        scores[answer] = logits.log_softmax(-1)[range(len(tokens)), tokens].sum().item()
        if not question.choices:
            return answer if logits.argmax(-1).tolist() == tokens else ""
    return max(scores, key=scores.__getitem__)


@pytest.mark.ci
@pytest.mark.parametrize("family", KNOWLEDGE)
def test_the_base_model_knows_each_family(family: str) -> None:
    questions = [question for question in knowledge_questions(100, seed=1) if question.family == family]
    right = [answered(question) == question.answer for question in questions]
    assert sum(right) >= 0.97 * len(right)
