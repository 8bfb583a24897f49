import inspect
import random
from dataclasses import replace

import pytest
import torch
from models_that_know import model_that_knows
from peft import PromptTuningConfig, get_peft_model
from tiny_models import CONTEXT, tiny_model, tiny_tokenizer
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import PreTrainedModel

from secura.errors import DataError, SecuraError
from secura.evaluation.batch_size import BatchSize
from secura.evaluation.choice_scoring import can_copy_cache, choose_answers
from secura.evaluation.hidden_states import has_known_head
from secura.evaluation.log_likelihoods import sum_log_likelihoods
from secura.tasks.prompting import answer_tokens, prompt_tokens
from secura.tasks.question import Question

CHOICES = ("blue", "a long green one", "red", "a long red one", "grey or red")
QUESTIONS = [
    Question(prompt="sky " * words + "is?", answer="red", choices=CHOICES[: 3 + words % 3])
    for words in (1, 8, 3, 3, 5, 2, 7)
]


def _plainly(model: PreTrainedModel, question: Question) -> list[float]:
    """Each choice alone behind the whole prompt, without padding, cache or batch."""
    tokenizer = tiny_tokenizer()
    prompt = prompt_tokens(tokenizer, question.prompt)
    sums = []
    for choice in question.choices:
        tokens = answer_tokens(tokenizer, question.prompt, choice, end=False)
        with torch.no_grad():
            logits = model(torch.tensor([prompt + tokens])).logits[0].log_softmax(-1)
        sums.append(sum(logits[len(prompt) - 1 + place, token].item() for place, token in enumerate(tokens)))
    return sums


@pytest.mark.parametrize(
    ("architecture", "shares"), [("llama", True), ("qwen2", True), ("gpt2", True), ("gemma2", False)]
)
@pytest.mark.parametrize("rows", [1, 3, 16])
def test_every_choice_scores_as_it_does_alone(architecture: str, shares: bool, rows: int) -> None:
    model = tiny_model(architecture)
    assert can_copy_cache(model) == shares
    for question, found in zip(
        QUESTIONS, choose_answers(model, tiny_tokenizer(), QUESTIONS, batch_size=rows), strict=True
    ):
        assert_close(list(found.likelihoods), _plainly(model, question), rtol=1e-5, atol=1e-5)  # float32, batched


def _tokens_read(model: nn.Module) -> list[int]:
    read: list[int] = []
    model.register_forward_pre_hook(
        lambda module, arguments, inputs: read.append(inputs["input_ids"].numel()), with_kwargs=True
    )
    return read


def test_a_prompt_is_read_once_whatever_the_number_of_its_choices() -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    question = Question(prompt="sky " * 9 + "?", answer="b", choices=("b", "g", "a long red", "a long rex"))
    has_known_head(model)  # reads two tokens, once for a model
    read = _tokens_read(model)
    choose_answers(model, tokenizer, [question])
    lengths = [len(answer_tokens(tokenizer, question.prompt, each, end=False)) for each in question.choices]
    assert lengths == [2, 2, 10, 10]  # the first token of each is the space
    # Two and two differ in their last token alone, which is never read.
    assert read == [len(prompt_tokens(tokenizer, question.prompt)), 2 * (10 - 1)]


def test_choices_of_one_token_cost_no_more_than_the_prompt() -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    prompt = "sky " * 9 + "?\n"  # nothing joins a choice to a line break
    read = _tokens_read(model)
    choose_answers(model, tokenizer, [Question(prompt=prompt, answer="b", choices=("b", "g", "x"))])
    assert read == [len(prompt_tokens(tokenizer, prompt))]


def test_the_order_of_the_questions_has_no_say_in_any_score() -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    forward = choose_answers(model, tokenizer, QUESTIONS, batch_size=3)
    order = random.Random(0).sample(range(len(QUESTIONS)), len(QUESTIONS))
    shuffled = choose_answers(model, tokenizer, [QUESTIONS[index] for index in order], batch_size=3)
    assert shuffled == [forward[index] for index in order]  # to the bit


def test_running_out_of_memory_on_the_way_changes_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    expected = choose_answers(model, tokenizer, QUESTIONS)
    whole, full = model.forward, [0]

    def forward(*arguments: object, **inputs: Tensor) -> object:
        if len(inputs["input_ids"]) > 2:
            full[0] += 1
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return whole(*arguments, **inputs)

    forward.__signature__ = inspect.signature(whole)  # type: ignore[attr-defined]
    monkeypatch.setattr(model, "forward", forward)
    progress: list[int] = []
    found = choose_answers(model, tokenizer, QUESTIONS, on_progress=progress.append)
    assert full[0] > 0
    assert sum(progress) == len(QUESTIONS)
    assert [each.by_sum for each in found] == [each.by_sum for each in expected]
    for one, other in zip(found, expected, strict=True):
        assert_close(one.likelihoods, other.likelihoods, rtol=1e-5, atol=1e-5)


def test_by_length_divides_by_the_characters_of_the_choice() -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    for question, found in zip(QUESTIONS, choose_answers(model, tokenizer, QUESTIONS), strict=True):
        by_length = [value / len(text) for value, text in zip(found.likelihoods, question.choices, strict=True)]
        assert found.by_length == by_length.index(max(by_length))
        assert found.by_sum == found.likelihoods.index(max(found.likelihoods))


def test_a_prompt_too_long_for_its_longest_choice_loses_its_beginning_and_is_counted() -> None:
    model, tokenizer = tiny_model("gpt2"), tiny_tokenizer()  # reads no place beyond its context
    long = replace(QUESTIONS[0], prompt="z" * 2 * CONTEXT)
    longest = max(len(answer_tokens(tokenizer, long.prompt, each, end=False)) for each in long.choices)
    cut = replace(long, prompt="z" * (CONTEXT + 1 - longest))
    found = choose_answers(model, tokenizer, [long, cut], batch_size=2)
    assert [each.prompt_cut for each in found] == [True, False]
    assert found[0].likelihoods == found[1].likelihoods  # the same tokens, so they are read once


def test_a_choice_longer_than_the_context_is_refused() -> None:
    question = Question(prompt="?", answer="a", choices=("a", "z" * 2 * CONTEXT))
    with pytest.raises(DataError, match=f"has {2 * CONTEXT} tokens|reads {CONTEXT} at most"):
        choose_answers(tiny_model(), tiny_tokenizer(), [question])


def test_a_question_without_a_prompt_is_scored_from_its_choices_alone() -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    question = Question(prompt="", answer="blue sky", choices=("blue sky", "grey"))
    (found,) = choose_answers(model, tokenizer, [question])
    pairs = [([], answer_tokens(tokenizer, "", choice, end=False)) for choice in question.choices]
    assert list(found.likelihoods) == sum_log_likelihoods(model, tokenizer, pairs)


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_a_token_that_a_model_never_says_spoils_no_choice_that_lacks_it(architecture: str) -> None:
    model, tokenizer = tiny_model(architecture), tiny_tokenizer()
    never = torch.zeros(len(tokenizer)).index_fill(0, torch.tensor([0]), float("-inf"))  # 0 also fills rows up
    model.lm_head.register_forward_hook(lambda module, inputs, logits: logits + never)
    found = choose_answers(model, tokenizer, QUESTIONS)
    assert all(torch.tensor(each.likelihoods).isfinite().all() for each in found)


def test_a_model_of_nan_is_refused_instead_of_always_choosing_the_first() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.get_output_embeddings().weight.fill_(float("nan"))
    with pytest.raises(SecuraError, match=r"answers are NaN.*; its (lm_head|model\.embed_tokens)\.weight holds NaN"):
        choose_answers(model, tiny_tokenizer(), QUESTIONS)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_virtual_tokens_of_an_adapter_are_read(architecture: str) -> None:
    model, tokenizer = tiny_model(architecture), tiny_tokenizer()
    without = choose_answers(model, tokenizer, QUESTIONS)
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    adapted = get_peft_model(model, config).eval()
    found = choose_answers(adapted, tokenizer, QUESTIONS)
    question = QUESTIONS[0]
    tokens = prompt_tokens(tokenizer, question.prompt)
    choice = answer_tokens(tokenizer, question.prompt, "blue", end=False)
    with torch.no_grad():
        logits = adapted(torch.tensor([tokens + choice])).logits[0].log_softmax(-1)[-len(choice) - 1 : -1]
    plainly = sum(row[token].item() for row, token in zip(logits, choice, strict=True))
    assert_close(found[0].likelihoods[0], plainly, rtol=1e-5, atol=1e-5)
    assert abs(found[0].likelihoods[0] - without[0].likelihoods[0]) > 1e-3


def test_a_cache_that_is_padded_copied_and_cut_still_knows_every_answer() -> None:
    tokenizer = tiny_tokenizer()
    answers = ("a long green one", "a long red one", "grey")
    asked = [
        Question(prompt=f"{word} " * words + "?", answer=answers[words % 3], choices=answers)
        for word in ("sky", "sea")
        for words in range(1, 9)
    ]
    model = model_that_knows(tokenizer, asked)
    assert can_copy_cache(model)
    for rows in (1, 5, 16):
        found = choose_answers(model, tokenizer, asked, batch_size=rows)
        assert [question.choices[each.by_sum] for question, each in zip(asked, found, strict=True)] == [
            question.answer for question in asked
        ]


def test_one_batch_size_serves_several_tasks() -> None:
    model, size = tiny_model(), BatchSize(2, torch.device("cpu"))
    one = choose_answers(model, tiny_tokenizer(), QUESTIONS, batch_size=size)
    assert choose_answers(model, tiny_tokenizer(), QUESTIONS, batch_size=size) == one
