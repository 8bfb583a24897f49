from pathlib import Path
from typing import Any

import pytest
import torch
from adapted_models import adapted, gpt2, llama, llama_config
from peft import get_peft_model
from torch import nn
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
)

from secura import SecuraConfig
from secura.adapters.base_sample import base_sample
from secura.adapters.secura.layer import SecuraLayer


def sample(model: nn.Module) -> torch.Tensor:
    found = base_sample(model)
    assert found is not None
    return found


@pytest.mark.parametrize("shape", [(17, 33), (33, 17), (64, 2), (5, 1), (1, 9), (3, 4, 5)])
def test_a_change_of_any_row_is_noticed(shape: tuple[int, ...]) -> None:
    layer = nn.Module()
    layer.weight = nn.Parameter(torch.randn(shape))
    before = sample(layer).clone()
    for row in range(layer.weight.numel() // shape[-1]):
        with torch.no_grad():
            layer.weight.view(-1, shape[-1])[row] += 1
        now = sample(layer).clone()
        assert not torch.equal(now, before)
        before = now


def test_a_change_of_any_column_of_a_tall_matrix_is_noticed() -> None:
    layer = nn.Linear(17, 33, bias=False)
    for column in range(17):
        before = sample(layer).clone()
        with torch.no_grad():
            layer.weight[:, column] += 1
        assert not torch.equal(sample(layer), before)


@pytest.mark.parametrize("base", [llama, gpt2])
def test_every_parameter_takes_part_and_adapters_do_not(base: type) -> None:
    model = base()
    before = sample(model)
    for parameter in model.parameters():
        with torch.no_grad():
            parameter += 1
        assert not torch.equal(sample(model), before)
        with torch.no_grad():
            parameter -= 1
    model = base()
    assert torch.equal(sample(adapted(model, llama_config(modules_to_save=["lm_head"]))), before)


def test_modules_that_an_adapter_saves_whole_are_left_out() -> None:
    model = llama()
    before = base_sample(model, but=["lm_head"])
    assert before is not None
    with torch.no_grad():
        model.lm_head.weight += 1  # type: ignore[operator]
    now = base_sample(model, but=["lm_head"])
    assert now is not None
    assert torch.equal(before, now)
    assert not torch.equal(sample(model), sample(llama()))


def test_a_base_that_is_not_whole_has_no_sample() -> None:
    model = adapted(llama(), llama_config())
    model.merge_adapter()
    assert base_sample(model) is None
    model.unmerge_adapter()
    assert base_sample(model) is not None
    assert base_sample(nn.Linear(3, 2, device="meta")) is None
    packed = nn.Linear(3, 2)
    packed.codes = nn.Parameter(torch.ones(3, dtype=torch.int8), requires_grad=False)
    assert base_sample(packed) is None  # the same base may be plain elsewhere


def test_it_is_far_smaller_than_the_model() -> None:
    model = llama(width=256, between=1024)
    assert sample(model).numel() < sum(each.numel() for each in model.parameters()) / 50


@pytest.mark.parametrize(
    ("task", "kind"),
    [
        ("SEQ_CLS", BertForSequenceClassification),
        ("TOKEN_CLS", BertForTokenClassification),
        ("QUESTION_ANS", BertForQuestionAnswering),
    ],
)
def test_a_head_that_peft_saves_whole_by_itself_is_no_part_of_the_base(task: str, kind: Any, tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 37}
    base = kind(BertConfig(**sizes, vocab_size=99))
    model = get_peft_model(base, SecuraConfig(r=4, task_type=task, target_modules=["query"]))
    model.save_pretrained(str(tmp_path))
    model.load_adapter(str(tmp_path), adapter_name="again")  # refused before: the first sample held the head
    model.delete_adapter("again")
    assert not any("again" in layer.whole_base for layer in model.modules() if isinstance(layer, SecuraLayer))
