from functools import partial
from typing import Any

import pytest
import torch
from references import divergence as reference
from torch import Tensor
from torch.autograd import gradcheck
from torch.testing import assert_close

from secura.numerics.divergence import divergence, divergence_from_likeliest, likeliest, log_probabilities_of

POSITIONS, VOCABULARY = 5, 11


def two_logits(vocabulary: int = VOCABULARY) -> tuple[Tensor, Tensor]:
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return 2 * draw(POSITIONS, vocabulary), draw(POSITIONS, vocabulary)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_divergence_is_the_sum_over_all_tokens(temperature: float) -> None:
    teacher, model = two_logits()
    wanted = [reference.softened_kl(q, p, temperature) for q, p in zip(teacher.tolist(), model.tolist(), strict=True)]
    assert divergence(teacher, model, temperature=temperature).tolist() == pytest.approx(wanted, rel=1e-12)
    assert gradcheck(partial(divergence, teacher, temperature=temperature), model.requires_grad_())


def test_the_token_left_out_counts_in_neither_distribution() -> None:
    teacher, model = two_logits()
    gold = torch.tensor([0, 10, 3, 7, 7])
    wanted = [
        reference.kl_without(q, p, g) for q, p, g in zip(teacher.tolist(), model.tolist(), gold.tolist(), strict=True)
    ]
    assert divergence(teacher, model, left_out=gold).tolist() == pytest.approx(wanted, rel=1e-12)
    free = model.clone().requires_grad_()
    assert gradcheck(lambda logits: divergence(teacher, logits, left_out=gold), free)
    (gradient,) = torch.autograd.grad(divergence(teacher, free, left_out=gold).sum(), free)
    assert gradient.gather(1, gold[:, None]).abs().max() == 0  # the answer is free to be learned


@pytest.mark.parametrize("count", [1, 3, 10])
def test_the_likeliest_and_the_rest_are_one_outcome_more_than_the_likeliest(count: int) -> None:
    teacher, model = two_logits()
    tokens, kept, rest = likeliest(teacher, count)
    assert tokens.tolist() == [reference.likeliest(row, count) for row in teacher.tolist()]
    wanted = [reference.kl_over_likeliest(q, p, count) for q, p in zip(teacher.tolist(), model.tolist(), strict=True)]
    assert divergence_from_likeliest(tokens, kept, rest, model).tolist() == pytest.approx(wanted, rel=1e-11)
    assert gradcheck(partial(divergence_from_likeliest, tokens, kept, rest), model.requires_grad_())


def test_merging_all_but_the_likeliest_never_raises_the_divergence() -> None:
    teacher, model = two_logits(97)
    merged = [divergence_from_likeliest(*likeliest(teacher, count), model) for count in (1, 8, 32, 96)]
    for fewer, more in zip(merged, [*merged[1:], divergence(teacher, model)], strict=True):
        assert (fewer <= more + 1e-12).all()
    assert_close(merged[-1], divergence(teacher, model))  # a rest of one token is that token


def test_a_rest_far_below_what_32_bits_resolve_has_its_own_mass() -> None:
    model = torch.zeros(1, 6)
    model[0, 0] = 60.0  # 1 - p of the first is 0 in float32
    tokens = torch.tensor([[0]])
    found = divergence_from_likeliest(tokens, torch.tensor([[-1e-3]]), torch.tensor([-6.9]), model)
    assert found.item() == pytest.approx(0.001 * (60 - 6.9 - 1.609), rel=0.02)


def test_what_16_bits_round_away_is_hardly_a_divergence() -> None:
    teacher = 4 * torch.randn(400, 300, generator=torch.Generator().manual_seed(0))
    tokens, kept, rest = likeliest(teacher, 64)
    assert divergence_from_likeliest(tokens, kept.half(), rest.half(), teacher).mean() < 1e-6


def test_the_whole_vocabulary_cannot_be_the_likeliest() -> None:
    teacher, model = two_logits()
    with pytest.raises(ValueError, match="count is 11, but must be from 1 to 10"):
        likeliest(teacher, VOCABULARY)
    everything: Any = (torch.arange(11).expand(5, 11), teacher, teacher[:, 0])
    with pytest.raises(ValueError, match="11 likeliest tokens of 11"):
        divergence_from_likeliest(*everything, model)


def test_log_probabilities_are_those_of_a_softmax() -> None:
    _, model = two_logits()
    tokens = torch.tensor([[0, 3], [10, 10], [4, 1], [2, 2], [9, 0]])
    wanted = model.log_softmax(-1).gather(1, tokens)
    assert_close(log_probabilities_of(tokens, model), wanted)
    assert log_probabilities_of(tokens, model.bfloat16()).dtype == torch.float32
