"""An adapter under accelerate's offloading: on a CPU too it leaves meta tensors in the place of weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from accelerate.hooks import ModelHook, add_hook_to_module
from adapted_models import (
    COMBINATIONS,
    OneConv1D,
    TwoLinears,
    adapted,
    crossed,
    first_layer,
    inputs,
    llama,
    llama_config,
    logits,
    moved,
    one_conv1d,
    outputs,
    saved_adapter,
    secura_layers,
    small_config,
    two_linears,
)
from peft import PeftModel
from torch import Tensor, nn
from torch.testing import assert_close

from secura import BaseMismatchError, ConfigError, FoldError, MergeError, fold, undo
from secura.adapters.offloading import brought_in, is_offloaded

NORMS = ["none", "paper", "bounded", "row_bounded"]


def offloaded(model: Any) -> Any:
    cpu_offload(model)
    assert all(is_offloaded(layer.get_base_layer()) for layer in secura_layers(model))
    return model


def test_a_weight_is_brought_in_for_the_block_and_taken_away_again() -> None:
    linear = nn.Linear(3, 2)
    expected = linear.weight.detach().clone()
    assert not is_offloaded(linear)
    cpu_offload(linear)
    assert is_offloaded(linear)
    with brought_in([linear]):
        with brought_in([linear, nn.Linear(3, 2)]):
            assert torch.equal(linear.weight, expected)
        assert torch.equal(linear.weight, expected)
    assert is_offloaded(linear)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("build", [two_linears, one_conv1d])
@crossed(COMBINATIONS)
def test_an_offloaded_adapter_computes_what_it_did(choice: dict[str, str], build: Any, dtype: torch.dtype) -> None:
    model = adapted(build(dtype=dtype), small_config(**choice, output_bias=True))
    fold(model, "one")
    moved(model, seed=4)
    x = inputs(dtype=dtype)
    expected = outputs(model, x)
    # The base layer computes its own product: in 32 bits it was one with W', in 16 the sum was rounded once less.
    rounding = 1e-5 if dtype == torch.float32 else 2**-7
    assert_close(outputs(offloaded(model), x), expected, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("build", [two_linears, one_conv1d])
@crossed(COMBINATIONS)
def test_an_adapter_attached_to_an_offloaded_base_learns_what_it_would_on_another(
    choice: dict[str, str], build: Callable[[], TwoLinears | OneConv1D]
) -> None:
    config = small_config(**choice)
    base = build()
    cpu_offload(base)
    models = adapted(base, config), adapted(build(), config)
    for model in models:
        fold(model, "one")
        moved(model, seed=4)
        fold(model, "two")
        moved(model, seed=5)
        undo(model, "one")
        model(inputs()).square().sum().backward()
    one, other = (
        {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad} for model in models
    )
    assert one
    assert_close(one, other, rtol=1e-4, atol=1e-5)
    for layer, plain in zip(*map(secura_layers, models), strict=True):
        assert_close(layer.fingerprint(), plain.fingerprint())


def test_rows_of_a_batch_have_adapters_of_their_own_under_offloading() -> None:
    model = adapted(llama(), llama_config())
    model.add_adapter("other", llama_config(norm="paper"))
    moved(model, seed=4, adapter_name="other")
    names = ["other", "__base__", "default"]

    def mixed() -> Tensor:
        with torch.no_grad():
            return model(torch.tensor([[1, 2, 3]] * 3), adapter_names=names).logits

    expected = mixed()
    offloaded(model)
    assert_close(mixed(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("away", [cpu_offload, "disk"])
@pytest.mark.parametrize("norm", NORMS)
def test_a_merge_under_offloading_is_the_merge_and_is_taken_out_to_the_bit(
    norm: str, away: Any, tmp_path: Path
) -> None:
    base, plain = llama(), adapted(llama(), llama_config(norm=norm))
    model = adapted(llama(), llama_config(norm=norm))
    unmerged = logits(model)
    plain.merge_adapter()
    disk_offload(model, str(tmp_path)) if away == "disk" else cpu_offload(model)
    for _ in range(2):
        model.merge_adapter()
        assert torch.equal(logits(model), logits(plain))
        with model.disable_adapter():  # takes the merge out
            assert torch.equal(logits(model), logits(base))
    assert_close(logits(model), unmerged, rtol=1e-4, atol=1e-4)
    assert torch.equal(logits(model.merge_and_unload()), logits(plain))


def test_what_a_merge_replaced_waits_in_main_memory() -> None:
    model = offloaded(adapted(llama(), llama_config()))
    model.merge_adapter()
    for layer in secura_layers(model):
        assert layer._before_merge is not None
        assert layer._before_merge.weight.device.type == "cpu"
        assert is_offloaded(layer.get_base_layer())


def test_a_merge_through_two_hooks_is_refused() -> None:
    model = offloaded(adapted(llama(), llama_config()))
    add_hook_to_module(first_layer(model).get_base_layer(), ModelHook(), append=True)
    before = logits(model)
    with pytest.raises(MergeError, match="offloaded by more than one hook"):
        model.merge_adapter()
    assert_close(first_layer(model).merged_adapters, [])
    model.unmerge_adapter()
    assert_close(logits(model), before, rtol=1e-4, atol=1e-4)


def test_an_offloaded_adapter_is_saved_and_read_as_any_other(tmp_path: Path) -> None:
    plain = adapted(llama(), llama_config())
    expected = logits(plain)
    here, there = (
        saved_adapter(plain, tmp_path / "a"),
        saved_adapter(offloaded(adapted(llama(), llama_config())), tmp_path / "b"),
    )
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (here / name).read_bytes() == (there / name).read_bytes()
    base = llama()
    cpu_offload(base)
    assert_close(logits(PeftModel.from_pretrained(base, here).eval()), expected, rtol=1e-4, atol=1e-4)
    wrong = llama(seed=5)
    cpu_offload(wrong)
    with pytest.raises(BaseMismatchError, match=r"the weight of model\.layers\.0\.self_attn\.q_proj is not the one"):
        PeftModel.from_pretrained(wrong, here)


def test_what_would_be_lost_in_offloaded_factors_is_refused(tmp_path: Path) -> None:
    model = adapted(llama(), llama_config())
    fold(model, "one")
    folder = saved_adapter(model, tmp_path)
    offloaded(model)
    with pytest.raises(FoldError, match="cannot fold adapter 'default' while accelerate offloads its factors"):
        fold(model, "two")
    with pytest.raises(ConfigError, match="adapter 'default' is offloaded by accelerate"):
        model.load_adapter(str(folder), "default")
    undo(model, "one")
    model.load_adapter(str(folder), "other")
    model.set_adapter("other")
    expected = PeftModel.from_pretrained(llama(), folder).eval()
    assert_close(logits(model.eval()), logits(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("norm", NORMS)
def test_weights_in_main_memory_are_computed_with_on_the_gpu(norm: str) -> None:
    plain = adapted(llama(), llama_config(norm=norm)).to("cuda")
    model = adapted(llama(), llama_config(norm=norm))
    cpu_offload(model, execution_device=torch.device("cuda"))
    ids = torch.tensor([[1, 2, 3]], device="cuda")
    assert_close(logits(model, ids), logits(plain, ids), rtol=1e-4, atol=1e-4)
    base = logits(llama().to("cuda"), ids)
    for one in (plain, model):
        one.merge_adapter()
    assert_close(logits(model, ids), logits(plain, ids), rtol=1e-4, atol=1e-4)
    with model.disable_adapter():
        assert_close(logits(model, ids), base, rtol=1e-4, atol=1e-4)
