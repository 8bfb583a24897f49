import math

import pytest
import torch
from models_that_know import model_that_knows
from tiny_models import CONTEXT, tiny_model, tiny_tokenizer
from torch.testing import assert_close

from secura.evaluation.perplexity import text_losses
from secura.tasks.question import PlainText

TOKENIZER = tiny_tokenizer()


def _plainly(text: str, *, width: int = CONTEXT) -> list[float]:
    """Nats of every token, each given the end-of-sequence token or at least half a context."""
    model = tiny_model()
    tokens = [TOKENIZER.eos_token_id, *TOKENIZER(text)["input_ids"]]
    nats = []
    for place in range(1, len(tokens)):
        # The first window reads `width` tokens; each next one moves on by half of that.
        moves = max(0, math.ceil((place - width) / (width // 2)))
        begin = moves * (width // 2)
        with torch.no_grad():
            logits = model(torch.tensor([tokens[begin:place]])).logits[0, -1].log_softmax(-1)
        nats.append(-logits[tokens[place]].item())
    return nats


@pytest.mark.parametrize("tokens", [1, 5, CONTEXT - 1, CONTEXT, CONTEXT + 1, 2 * CONTEXT, 3 * CONTEXT + 7])
def test_every_token_is_scored_once_with_half_a_context_before_it(tokens: int) -> None:
    text = ("zq" * tokens)[:tokens]
    assert len(TOKENIZER(text)["input_ids"]) == tokens
    (found,) = text_losses(tiny_model(), TOKENIZER, [text])
    assert found.tokens == tokens
    assert_close(found.nats, sum(_plainly(text)), rtol=1e-5, atol=1e-5)


def test_texts_of_all_lengths_go_together_and_progress_counts_them() -> None:
    texts = ["sky", "z" * 3 * CONTEXT, "What is the colour of the sky?", "", "q" * CONTEXT]
    progress: list[int] = []
    found = text_losses(tiny_model(), TOKENIZER, texts, batch_size=2, on_progress=progress.append)
    assert [each.tokens for each in found] == [len(TOKENIZER(text)["input_ids"]) for text in texts]
    for text, each in zip(texts, found, strict=True):
        assert_close(each.nats, math.fsum(_plainly(text)), rtol=1e-5, atol=1e-5)
    assert sum(progress) == len(texts)


def test_a_known_text_costs_nothing() -> None:
    text = "What is the colour of the sky?"
    model = model_that_knows(TOKENIZER, [PlainText(text=text)])
    (found,) = text_losses(model, TOKENIZER, [text])
    assert_close(found.nats_per_token, 0.0, rtol=0, atol=1e-6)


def test_a_beginning_of_sequence_token_is_read_and_not_scored() -> None:
    with_beginning = tiny_tokenizer()
    with_beginning.bos_token = "<|user|>"
    text = "blue and grey"
    (found,) = text_losses(tiny_model(), with_beginning, [text])
    tokens = [with_beginning.bos_token_id, *with_beginning(text)["input_ids"]]
    with torch.no_grad():
        expected = tiny_model()(torch.tensor([tokens]), labels=torch.tensor([tokens])).loss.item()
    assert found.tokens == len(tokens) - 1
    assert_close(found.nats_per_token, expected, rtol=1e-5, atol=1e-5)
