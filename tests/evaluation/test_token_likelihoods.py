import pytest
from tiny_models import CONTEXT, tiny_model, tiny_tokenizer
from torch.testing import assert_close

from secura.evaluation.log_likelihoods import sum_log_likelihoods
from secura.evaluation.token_likelihoods import token_log_likelihoods


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_tokens_of_an_answer_add_up_to_its_score(architecture: str) -> None:
    model, tokenizer = tiny_model(architecture), tiny_tokenizer()
    context, answer = [40, 41, 42], [50, 51, 52, 53]
    found = token_log_likelihoods(model, tokenizer, context, answer)
    assert len(found) == 4
    total = sum_log_likelihoods(model, tokenizer, [(context, answer)])[0]
    assert_close(sum(value for value in found if value is not None), total)


def test_a_first_token_that_nothing_comes_before_has_none() -> None:
    found = token_log_likelihoods(tiny_model(), tiny_tokenizer(), [], [50, 51])
    assert found[0] is None
    assert found[1] is not None


def test_tokens_beyond_the_context_have_none() -> None:
    found = token_log_likelihoods(tiny_model(), tiny_tokenizer(), [40] * (CONTEXT - 2), [50] * 5)
    assert [value is None for value in found] == [False, False, True, True, True]
    assert token_log_likelihoods(tiny_model(), tiny_tokenizer(), [40] * CONTEXT, [50]) == [None]


def test_a_model_in_training_stays_in_training() -> None:
    model = tiny_model().train()
    token_log_likelihoods(model, tiny_tokenizer(), [40], [50])
    assert model.training
