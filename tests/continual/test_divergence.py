from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import tiny_model
from torch.autograd import grad
from torch.testing import assert_close

from secura.continual.kl_anchor import KLAnchor
from secura.continual.lwf import LwF
from secura.continual.strategy import Step
from secura.numerics.divergence import divergence

TOKENS = torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 13, 14]])
INPUTS = {"input_ids": TOKENS, "labels": TOKENS, "attention_mask": torch.ones_like(TOKENS)}
ANSWERS = torch.tensor([[True] * 4 + [False]] * 2)


def step(model: Any) -> Step:
    return Step(model=model, inputs=INPUTS, states=None, collate=lambda rows: {}, number=0)


@pytest.mark.parametrize("modules", [["q_proj"], ["q_proj", "lm_head"]], ids=["body", "body and head"])
def test_the_kl_anchor_holds_a_whole_model_by_its_logits(modules: list[str]) -> None:
    torch.manual_seed(0)
    model: Any = get_peft_model(tiny_model(), LoraConfig(target_modules=modules, init_lora_weights=False))
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    term = KLAnchor(strength=2.0, positions="all").loss_term(step(model))
    assert term is not None
    with torch.no_grad(), model.disable_adapter():
        base = model(input_ids=TOKENS).logits
    wanted = 2 * divergence(base.flatten(0, 1), model(input_ids=TOKENS).logits.flatten(0, 1)).mean()
    assert_close(term, wanted)
    assert_close(grad(term, trained), grad(wanted, trained))


def test_lwf_remembers_the_head_it_began_with() -> None:
    model, strategy = tiny_model(), LwF(strength=1.5)
    strategy.begin_task(model, 1)
    before = model(input_ids=TOKENS).logits.detach()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    term = strategy.loss_term(step(model))
    assert term is not None
    now = model(input_ids=TOKENS).logits
    wanted = 1.5 * divergence(before[ANSWERS], now[ANSWERS], temperature=2.0).mean()
    assert_close(term, wanted)
    trained = list(model.parameters())
    assert_close(grad(term, trained), grad(wanted, trained))
