"""Every task that the shared data cover, scored on models whose score is known beforehand."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from models_that_know import model_that_knows
from scipy.stats import binom
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from torch.testing import assert_close
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from secura.evaluation.score_task import score_task
from secura.tasks.catalogue import CATALOGUE
from secura.tasks.prompting import answer_tokens
from secura.tasks.question import Item, PlainText, Question
from secura.tasks.task import Task
from secura.tasks.task_items import chance_level, task_items

COUNT, MANY = 16, 150
CONTEXT = 4096
COVERED = [name for name, task in CATALOGUE.items() if task.bundled is None]
CHOSEN = [name for name in COVERED if CATALOGUE[name].kind == "choice"]

# Some thirty tasks are tested at once: each leaves its interval once in 10,000 times by accident.
CONFIDENCE = 0.9999


@pytest.fixture(scope="module")
def drawn(shared_data: Path) -> dict[str, list[Item]]:
    return {name: task_items(CATALOGUE[name], data=shared_data, count=COUNT) for name in COVERED}


@pytest.fixture(scope="module")
def tokenizer(drawn: dict[str, list[Item]]) -> PreTrainedTokenizerFast:
    """A tokenizer that knows the words of these items, so that answers are as long as for a real one."""

    def texts() -> Iterator[str]:
        for items in drawn.values():
            for item in items:
                yield from [item.text] if isinstance(item, PlainText) else [item.prompt, item.answer]

    trained = Tokenizer(BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4000,
        special_tokens=["<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator(texts(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=trained, eos_token="<eos>")


@pytest.fixture(scope="module")
def random_llama(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


@pytest.mark.ci
@pytest.mark.parametrize("name", CHOSEN)
def test_a_random_llama_chooses_at_chance(
    name: str,
    drawn: dict[str, list[Item]],
    tokenizer: PreTrainedTokenizerFast,
    random_llama: LlamaForCausalLM,
) -> None:
    _check_chance(CATALOGUE[name], drawn[name], tokenizer, random_llama)


_LABELS = 26
"""Letters from (A) to (Z), or yes and no: so few choices over many items are labels."""


@pytest.mark.slow
@pytest.mark.parametrize("name", CHOSEN)
def test_a_random_llama_chooses_at_chance_among_many_items(
    name: str, shared_data: Path, tokenizer: PreTrainedTokenizerFast, random_llama: LlamaForCausalLM
) -> None:
    items = task_items(CATALOGUE[name], data=shared_data, count=MANY)
    if len({choice for item in items if isinstance(item, Question) for choice in item.choices}) <= _LABELS:
        # Which one differs by processor, and the last label of a long list may be right for no item at all.
        pytest.skip("the answers are labels, and a random model gives one label to every item")
    _check_chance(CATALOGUE[name], items, tokenizer, random_llama)


def _check_chance(
    task: Task, items: Sequence[Item], tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM
) -> None:
    chance = chance_level(items)
    assert chance is not None
    score = score_task(model, tokenizer, task, items)
    low, high = binom.interval(CONFIDENCE, len(items), chance)
    assert low <= score.value * len(items) <= high
    assert score.prompts_cut == 0


@pytest.mark.ci
@pytest.mark.parametrize("name", COVERED)
def test_a_model_that_knows_the_answers_has_them_all_right(
    name: str, drawn: dict[str, list[Item]], tokenizer: PreTrainedTokenizerFast
) -> None:
    task = CATALOGUE[name]
    items = [item for item in drawn[name] if _can_be_given(task, item, tokenizer)]
    assert len(items) >= COUNT // 3
    if task.kind == "text":
        items = items[:1]  # of several texts, even who knows them all cannot tell which one begins
    score = score_task(model_that_knows(tokenizer, items, context=CONTEXT), tokenizer, task, items)
    assert_close(score.value, 1.0, rtol=1e-6, atol=0)
    assert all(each.correct in (None, True) for each in score.items)
    assert (score.truncated, score.prompts_cut) == (0, 0)


def _can_be_given(task: Task, item: Item, tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether the right answer fits the task's own limit of tokens, as long ones of open tasks do not."""
    if not isinstance(item, Question) or item.choices:
        return True
    tokens = answer_tokens(tokenizer, item.asked, item.answer, end=True)
    return len(tokens) <= task.max_answer_tokens and not any(stop in item.answer for stop in task.stop)
