import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_models import CONTEXT, tiny_model, tiny_tokenizer
from torch.nn.functional import cross_entropy
from torch.testing import assert_close
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from secura.evaluation.answer_loss import mean_answer_loss
from secura.evaluation.forgetting_loss import ForgettingLoss, mean_token_cross_entropy
from secura.tasks.question import PlainText

TEXTS = ["What is the colour of the sky?", "grey", "z" * 100, "blue and grey " * 3, "?!"]
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}  # float32, batched and padded


def _row_by_row(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, max_tokens: int) -> float:
    """The definition: no padding, one row at a time, every token given those before it."""
    losses = []
    for text in TEXTS:
        tokens = tokenizer(text)["input_ids"][:max_tokens]
        with torch.no_grad():
            logits = model(torch.tensor([tokens])).logits[0]
        losses += [
            cross_entropy(logits[place - 1], torch.tensor(tokens[place])).item() for place in range(1, len(tokens))
        ]
    return sum(losses) / len(losses)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("max_tokens", [CONTEXT, 7])
def test_the_mean_is_over_the_tokens_of_all_rows_together(architecture: str, max_tokens: int) -> None:
    model, tokenizer = tiny_model(architecture), tiny_tokenizer()
    found = mean_token_cross_entropy(model, tokenizer, TEXTS, max_tokens=max_tokens)
    assert_close(found, _row_by_row(model, tokenizer, max_tokens), **TOLERANCE)


def test_left_padded_batches_without_positions_give_the_same_where_positions_are_relative() -> None:
    """As PEFT runs it: rows padded on the left, a mask, and the model's own idea of positions."""
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    rows = tokenizer(TEXTS[:4], truncation=True, max_length=CONTEXT)
    batch = tokenizer.pad(rows, return_tensors="pt", padding_side="left")
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    scored = batch["attention_mask"][:, :-1].bool()  # a token is scored if the one before it is no padding
    expected = cross_entropy(logits[:, :-1][scored], batch["input_ids"][:, 1:][scored]).item()
    assert_close(mean_token_cross_entropy(model, tokenizer, TEXTS[:4]), expected, **TOLERANCE)


def test_a_beginning_of_sequence_token_is_read_and_not_scored() -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    plain = tokenizer(TEXTS[0])["input_ids"]
    begun = _BeginningWithEos(tokenizer)
    with torch.no_grad():
        whole = torch.tensor([[tokenizer.eos_token_id, *plain]])
        expected = model(whole, labels=whole).loss.item()  # transformers leaves out the first token too
    assert_close(mean_token_cross_entropy(model, begun, TEXTS[:1]), expected, **TOLERANCE)


def test_it_is_the_loss_of_plain_text_where_both_are_defined() -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    items = [PlainText(text=text) for text in TEXTS]
    expected = mean_answer_loss(model, tokenizer, items, max_tokens=20)
    assert_close(mean_token_cross_entropy(model, tokenizer, TEXTS, max_tokens=20), expected, **TOLERANCE)


def test_the_batch_size_does_not_matter() -> None:
    model, tokenizer = tiny_model("gpt2"), tiny_tokenizer()
    alone = mean_token_cross_entropy(model, tokenizer, TEXTS, batch_size=1)
    assert_close(mean_token_cross_entropy(model, tokenizer, TEXTS, batch_size=5), alone, **TOLERANCE)


def test_a_text_longer_than_the_model_reads_is_cut_there() -> None:
    model, tokenizer = tiny_model("gpt2"), tiny_tokenizer()  # has no position beyond CONTEXT
    long = ["z" * (3 * CONTEXT)]
    assert mean_token_cross_entropy(model, tokenizer, long) == mean_token_cross_entropy(
        model, tokenizer, long, max_tokens=CONTEXT
    )


def test_training_on_other_text_is_forgetting_and_an_untouched_adapter_is_none() -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    known = TEXTS[0]
    _learn(model, torch.tensor([tokenizer(known)["input_ids"]]), rate=0.01)
    before = mean_token_cross_entropy(model, tokenizer, [known])
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj", "v_proj", "down_proj"]))
    assert mean_token_cross_entropy(adapted, tokenizer, [known]) == before
    _learn(adapted, torch.tensor([tokenizer("?yks eht fo ruoloc eht si tahW")["input_ids"]]), rate=0.05)
    after = mean_token_cross_entropy(adapted, tokenizer, [known])
    assert ForgettingLoss(before=before, after=after).forgetting == after - before > 1


def _learn(model: PreTrainedModel | PeftModel, tokens: torch.Tensor, *, rate: float) -> None:
    optimizer = torch.optim.Adam([weight for weight in model.parameters() if weight.requires_grad], lr=rate)
    for _ in range(25):
        model(tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def test_dropout_is_off_meanwhile_and_the_mode_is_put_back() -> None:
    model, tokenizer = tiny_model("gpt2"), tiny_tokenizer()  # drops a tenth of its activations in training
    still = mean_token_cross_entropy(model, tokenizer, TEXTS)
    assert mean_token_cross_entropy(model.train(), tokenizer, TEXTS) == still
    assert model.training


@pytest.mark.parametrize("texts", [[], [""], ["", "?"]])
def test_texts_without_two_tokens_are_refused(texts: list[str]) -> None:
    with pytest.raises(ValueError, match="two tokens"):
        mean_token_cross_entropy(tiny_model(), tiny_tokenizer(), texts)


class _BeginningWithEos(PreTrainedTokenizerFast):
    """The tiny tokenizer, putting a token before every text as Llama's does."""

    def __init__(self, plain: PreTrainedTokenizerFast) -> None:
        super().__init__(tokenizer_object=plain.backend_tokenizer, eos_token="<eos>", pad_token="<pad>")

    def __call__(self, text, **settings):  # type: ignore[override]
        encoded = super().__call__(text, **settings)
        encoded["input_ids"] = [self.eos_token_id, *encoded["input_ids"]]
        return encoded
