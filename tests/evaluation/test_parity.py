import pytest
import torch
from tiny_models import tiny_model
from torch.testing import assert_close

from secura.evaluation.parity import TIE_NATS, Answered, Distribution, ask_model, compare_answers, divergence

PROMPT = [9, 30, 44, 7]


def known(**log_probs: float) -> Distribution:
    tokens = torch.tensor([int(name.removeprefix("t")) for name in log_probs])
    return Distribution(tokens=tokens, log_probs=torch.tensor(list(log_probs.values()), dtype=torch.float64))


def written_out(path: list[int]) -> torch.Tensor:
    """Log-probabilities along a path, of one pass over all of it."""
    with torch.inference_mode():
        logits = tiny_model()(torch.tensor([[*PROMPT, *path]])).logits
    return logits[0, len(PROMPT) - 1 : -1].double().log_softmax(-1)


def test_a_model_answers_greedily_and_shows_the_likeliest_tokens_at_each_place() -> None:
    found = ask_model(tiny_model(), ends=[], max_tokens=5, shown=7)(PROMPT, None)
    expected = written_out(list(found.tokens))
    assert len(found.tokens) == 5
    assert list(found.tokens) == expected.argmax(-1).tolist()
    for place, each in enumerate(found.distributions):
        assert each is not None
        assert len(each.tokens) == 7
        assert_close(each.log_probs, expected[place].topk(7).values, rtol=1e-5, atol=1e-5)


def test_along_another_answer_every_place_of_it_is_shown() -> None:
    ask = ask_model(tiny_model(), ends=[], max_tokens=5)
    own = list(ask(PROMPT, None).tokens)
    path = [*own[:2], (own[2] + 1) % 200, 11, 12, 13]
    found = ask(PROMPT, path)
    assert list(found.tokens) == own
    assert len(found.distributions) == len(path)
    expected = written_out(path)
    for place, each in enumerate(found.distributions):
        assert each is not None
        assert_close(each.log_probs, expected[place].sort(descending=True).values, rtol=1e-5, atol=1e-5)


def test_an_answer_stops_at_its_end() -> None:
    first = ask_model(tiny_model(), ends=[], max_tokens=5)(PROMPT, None).tokens
    assert list(ask_model(tiny_model(), ends=[first[1]], max_tokens=5)(PROMPT, None).tokens) == list(first[:2])


def test_a_divergence_counts_what_is_not_shown_as_one_token() -> None:
    one, other = known(t1=-0.5, t2=-1.5), known(t2=-1.0, t1=-0.8)
    p, q = torch.tensor([-0.5, -1.5]).double().exp(), torch.tensor([-0.8, -1.0]).double().exp()
    p, q = torch.cat([p, 1 - p.sum()[None]]), torch.cat([q, 1 - q.sum()[None]])
    assert_close(divergence(one, other), (p * (p / q).log()).sum().item())
    assert divergence(one, one) == 0


@pytest.mark.parametrize(("gap", "ties"), [(0.5 * TIE_NATS, 1), (2 * TIE_NATS, 0)])
def test_answers_that_part_between_tokens_that_are_equally_likely_part_at_a_tie(gap: float, ties: int) -> None:
    places = [known(t5=-0.1, t6=-2.5), known(t7=-0.6, t8=-0.6 - gap)]
    reference = Answered(tokens=[5, 7], distributions=places)
    found = compare_answers([PROMPT], [reference], lambda prompt, path: Answered(tokens=[5, 8], distributions=places))
    assert (found.same, found.ties, found.prompts[0].differs_at) == (0, ties, 1)
    assert_close(found.prompts[0].gap_nats, gap)
    assert found.mean_kl == found.largest_kl == 0
    assert_close(found.nats[0], 0.35)


def test_an_answer_that_goes_on_where_the_other_has_ended_is_another() -> None:
    reference = Answered(tokens=[5], distributions=[known(t5=-0.1)])
    longer = Answered(tokens=[5, 6], distributions=[known(t5=-0.1), known(t6=-0.1)])
    found = compare_answers([PROMPT], [reference], lambda prompt, path: longer)
    assert (found.same, found.ties, found.prompts[0].differs_at) == (0, 0, 1)
