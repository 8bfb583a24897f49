from typing import Any

import pytest
import torch
from largest_tensor import LargestTensor
from models_that_know import model_that_knows
from peft import LoraConfig, PromptTuningConfig, TaskType, get_peft_model
from tiny_models import ARCHITECTURES, tiny_model, tiny_tokenizer
from torch import Tensor
from torch.testing import assert_close
from transformers import CohereConfig, CohereForCausalLM, GraniteConfig, GraniteForCausalLM

from secura.evaluation.hidden_states import catch_hidden_states, has_known_head, hidden_states
from secura.evaluation.log_likelihoods import sum_log_likelihoods
from secura.numerics import chunks

TOKENS = torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 13, 14]])
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}


def scaled_up(model: Any) -> Any:
    """With logits so large that a cap or a factor tells."""
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(200)
    return model.eval()


def granite() -> Any:
    return GraniteForCausalLM(GraniteConfig(vocab_size=60, logits_scaling=8.0, **SIZES))


def cohere() -> Any:
    return CohereForCausalLM(CohereConfig(vocab_size=60, logit_scale=0.06, **SIZES))


BUILDERS: dict[str, Any] = {
    **{name: lambda name=name: tiny_model(name) for name in ARCHITECTURES},
    "granite": granite,
    "cohere": cohere,
}


def all_logits(model: Any, **more: Any) -> Tensor:
    read = hidden_states(model, {"input_ids": TOKENS, **more})
    return read.to_logits(read.states)


@pytest.mark.parametrize("name", BUILDERS)
def test_the_head_alone_gives_the_models_own_logits(name: str) -> None:
    torch.manual_seed(0)
    model = scaled_up(BUILDERS[name]())
    assert has_known_head(model)
    with torch.no_grad():
        assert_close(all_logits(model), model(input_ids=TOKENS).logits)


def test_a_head_that_does_more_than_is_known_is_left_to_its_model() -> None:
    class Doubled(type(tiny_model())):  # type: ignore[misc]
        def forward(self, *args: Any, logits_to_keep: int = 0, **kwargs: Any) -> Any:
            output = super().forward(*args, logits_to_keep=logits_to_keep, **kwargs)
            output.logits = 2 * output.logits
            return output

    model = tiny_model()
    model.__class__ = Doubled
    assert not has_known_head(model)
    with torch.no_grad():
        assert_close(all_logits(model), model(input_ids=TOKENS).logits)
    assert not has_known_head(model_that_knows(tiny_tokenizer(), []))


@pytest.mark.parametrize("modules", [["q_proj"], ["q_proj", "lm_head"]], ids=["body", "body and head"])
def test_an_adapter_counts_wherever_it_is(modules: list[str]) -> None:
    torch.manual_seed(0)
    model: Any = get_peft_model(tiny_model(), LoraConfig(target_modules=modules, init_lora_weights=False))
    assert has_known_head(model)
    read = hidden_states(model, {"input_ids": TOKENS}, keep=2)
    assert read.head_is_trained == ("lm_head" in modules)
    own = model(input_ids=TOKENS).logits
    assert_close(read.to_logits(read.states), own[:, -2:])
    with torch.no_grad(), model.disable_adapter():
        assert_close(all_logits(model), model(input_ids=TOKENS).logits)


def test_virtual_tokens_are_left_to_their_adapter() -> None:
    config = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=3)
    model: Any = get_peft_model(tiny_model(), config)
    assert not has_known_head(model)
    with torch.no_grad():
        kept = hidden_states(model, {"input_ids": TOKENS}, keep=2)
        assert_close(kept.states, model(input_ids=TOKENS).logits[:, -2:])


def test_the_head_computes_as_the_forward_pass_did() -> None:
    model: Any = tiny_model()
    with torch.no_grad():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            read = hidden_states(model, {"input_ids": TOKENS})
            own = model(input_ids=TOKENS).logits
        outside = read.to_logits(read.states)
    assert outside.dtype == torch.bfloat16
    assert_close(outside, own)


def test_states_are_handed_over_once() -> None:
    model = tiny_model()
    with catch_hidden_states(model) as caught, torch.no_grad():
        assert caught.taken() is None
        model(input_ids=TOKENS)
        assert caught.taken() is not None
        assert caught.taken() is None
    model(input_ids=TOKENS)
    assert caught.taken() is None


def test_no_score_holds_the_logits_of_all_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    has_known_head(model)
    pairs = [(list(range(3, 6)), list(range(6, 60))) for _ in range(4)]
    pairs = [(context, [token + row for token in rest]) for row, (context, rest) in enumerate(pairs)]
    monkeypatch.setattr(chunks, "_LOGITS_AT_ONCE", 10 * len(tokenizer))
    with LargestTensor() as seen:
        sum_log_likelihoods(model, tokenizer, pairs, batch_size=4)
    assert seen.elements < 4 * 57 * len(tokenizer) / 4
