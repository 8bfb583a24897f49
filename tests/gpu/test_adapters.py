"""Layers, checkpoints and merges on a GPU, held to the CPU in float64 or to themselves."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from adapted_models import (
    COMBINATIONS,
    WEIGHT_SPACE,
    adapted,
    crossed,
    first_layer,
    gpt2,
    inputs,
    llama,
    llama_config,
    moved,
    saved_adapter,
    secura_layers,
    small_config,
    tokens,
    two_linears,
)
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from secura import FoldError, MergeError, fold, undo
from secura.evaluation.merged import merged_for_scoring

pytestmark = pytest.mark.gpu
NORMS = ["none", "paper", "released", "bounded", "row_bounded"]
CHANGES = ["cabr", "cur", "low_rank"]


def logits(model: Any, device: torch.device) -> Tensor:
    with torch.no_grad():
        return model(tokens().to(device)).logits.float().cpu()


def apart(found: Tensor, exact: Tensor) -> float:
    """The norm of the difference as a share of what is exact."""
    return float((found.detach().cpu().double() - exact.detach()).norm() / exact.detach().norm())


@pytest.mark.parametrize(
    ("dtype", "rounding"),
    [(torch.float32, 1e-5), (torch.float16, 5e-3), (torch.bfloat16, 3e-2)],  # float16 keeps 11 bits, bfloat16 8
)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_layer_and_its_gradients_are_those_of_float64(
    change: str, norm: str, dtype: torch.dtype, rounding: float, device: torch.device
) -> None:
    model = adapted(two_linears(dtype=dtype), small_config(change=change, norm=norm))
    exact, layer = first_layer(copy.deepcopy(model).double()), first_layer(model.to(device))
    x = inputs(64, 33, dtype=dtype)
    outputs = layer(x.to(device)), exact(x.double())
    assert apart(outputs[0], outputs[1]) < rounding
    for output in outputs:
        output.square().sum().backward()
    ours, theirs = (dict(one.secura_change.named_parameters()) for one in (layer, exact))
    assert ours.keys() == theirs.keys()
    for name, parameter in ours.items():
        assert apart(parameter.grad, theirs[name].grad) < rounding, name


@crossed(COMBINATIONS)
@pytest.mark.parametrize("base", [llama, gpt2])
def test_an_adapter_travels_between_devices_with_its_folds(
    base: Any, choice: dict[str, str], device: torch.device, tmp_path: Path
) -> None:
    at_home, away = (adapted(base().to(place), llama_config(**choice)) for place in (torch.device("cpu"), device))
    for one, other in zip(secura_layers(at_home), secura_layers(away), strict=True):
        for mine, theirs in ((one.secura_columns, other.secura_columns), (one.secura_rows, other.secura_rows)):
            assert all(torch.equal(values, theirs[name].cpu()) for name, values in mine.items())
        assert torch.equal(one.fingerprint(), other.fingerprint())  # type: ignore[arg-type]
    fold(away, "one")
    moved(away, seed=4)
    expected = logits(away, device)
    folder = saved_adapter(away, tmp_path)
    home = PeftModel.from_pretrained(base(), folder).eval()
    assert_close(logits(home, torch.device("cpu")), expected, rtol=1e-3, atol=1e-3)
    assert_close(logits(PeftModel.from_pretrained(base().to(device), folder).eval(), device), expected)
    assert_close(logits(home.to(device), device), expected)


@crossed(WEIGHT_SPACE[::3])
def test_what_was_folded_on_a_device_is_undone_there(choice: dict[str, str], device: torch.device) -> None:
    model = adapted(llama().to(device), llama_config(**choice))
    before = logits(llama().to(device), device)
    fold(model, "one")
    moved(model, seed=4)
    fold(model, "two")
    assert (logits(model, device) - before).abs().max() > 1e-3
    undo(model, "one")
    undo(model, "two")
    assert_close(logits(model, device), before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("norm", ["none", "paper", "bounded", "row_bounded"])
def test_a_model_merged_for_scoring_answers_alike_and_is_itself_again(
    norm: str, dtype: torch.dtype, device: torch.device
) -> None:
    model = adapted(llama(dtype=dtype).to(device), llama_config(norm=norm))
    weights, before = copy.deepcopy(model.state_dict()), logits(model, device)
    with merged_for_scoring(model) as merged:
        assert merged
        rounding = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 0.1, "atol": 0.25}
        assert_close(logits(model, device), before, **rounding)
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
    assert_close(logits(model, device), before)


@pytest.mark.parametrize("base", [llama, gpt2])
@pytest.mark.parametrize("norm", NORMS[:2] + NORMS[3:])
def test_generation_picks_the_tokens_of_the_whole_forward_pass(base: Any, norm: str, device: torch.device) -> None:
    model = adapted(base().to(device), llama_config(norm=norm))
    prompt = tokens(rows=2, length=4).to(device)
    generated = model.generate(
        input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=5, do_sample=False
    )
    with torch.no_grad():
        whole = model(generated).logits[:, 3:-1]
    chosen = whole.gather(-1, generated[:, 4:, None])[..., 0]
    assert_close(chosen, whole.amax(-1), rtol=1e-4, atol=1e-4)  # a tie may fall either way


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("norm", NORMS)
def test_autocast_trains_what_plain_arithmetic_does(
    norm: str, stored: torch.dtype, dtype: torch.dtype, device: torch.device
) -> None:
    model = adapted(llama(dtype=stored).to(device), llama_config(norm=norm))
    batch = tokens().to(device)
    plain = torch.autograd.grad(model(batch, labels=batch).loss, _trained(model))
    with torch.autocast(device.type, dtype=dtype):
        loss = model(batch, labels=batch).loss
    cast = torch.autograd.grad(loss, _trained(model))
    for one, other in zip(cast, plain, strict=True):
        assert torch.isfinite(one).all()
        assert apart(one, other.cpu().double()) < 0.25  # 8 bits, through two layers of a random model


@pytest.mark.parametrize("norm", NORMS)
def test_float16_with_gradient_scaling_learns_and_skips_a_step_that_overflows(norm: str, device: torch.device) -> None:
    model = adapted(llama().to(device), llama_config(norm=norm), seed=None).train()
    optimizer = torch.optim.AdamW(_trained(model), lr=0.05)
    scaler = torch.amp.GradScaler(device.type, init_scale=2.0**10)
    batch = tokens().to(device)
    losses = []
    for _ in range(30):
        with torch.autocast(device.type, dtype=torch.float16):
            loss = model(batch, labels=batch).loss
        losses.append(loss.item())
        _scaled_step(scaler, loss, optimizer)
    assert losses[-1] < 0.9 * losses[0]
    before, scale = [weight.detach().clone() for weight in _trained(model)], scaler.get_scale()
    with torch.autocast(device.type, dtype=torch.float16):
        loss = model(batch, labels=batch).loss
    _scaled_step(scaler, loss * float("inf"), optimizer)
    assert all(torch.equal(old, new) for old, new in zip(before, _trained(model), strict=True))
    assert scaler.get_scale() < scale


@crossed(COMBINATIONS[::4])
def test_weights_kept_on_the_cpu_are_brought_for_each_forward_pass(
    choice: dict[str, str], device: torch.device
) -> None:
    model = adapted(llama(), llama_config(**choice)).to(device)
    fold(model, "one")
    moved(model, seed=4)
    expected = logits(model, device)
    cpu_offload(model, execution_device=device)
    assert_close(logits(model, device), expected, rtol=1e-4, atol=1e-4)
    assert all(weight.is_meta for weight in model.parameters())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_4_bit_base_is_adapted_trained_and_merged(
    change: str, norm: str, device: torch.device, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    llama(width=128, between=128).save_pretrained(tmp_path / "base")
    four_bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)

    def base() -> Any:
        return AutoModelForCausalLM.from_pretrained(
            tmp_path / "base", quantization_config=four_bits, device_map={"": device}
        )

    # All, since bitsandbytes repacks others for inference on a CPU, and no gradient passes through them afterwards.
    config = llama_config(change=change, norm=norm, target_modules="all-linear")
    model = adapted(base(), config, seed=None)
    fresh = logits(model, device)
    with model.disable_adapter():
        assert torch.equal(logits(model, device), fresh)
    before = logits(moved(model), device)
    assert (before - fresh).norm() > 0.01 * fresh.norm()
    batch = tokens().to(device)
    for gradient in torch.autograd.grad(model(batch, labels=batch).loss, _trained(model)):
        assert torch.isfinite(gradient).all()
        assert gradient.norm() > 0
    if norm == "released":
        with pytest.raises(MergeError, match="norm='released'"):
            model.merge_adapter()
        return
    model.merge_adapter()
    with pytest.raises(FoldError, match="cannot fold while"):
        fold(model, "one")
    assert (logits(model, device) - before).norm() < 0.5 * before.norm()  # 4 bits again
    model.unmerge_adapter()
    assert_close(logits(model, device), before)
    loaded = PeftModel.from_pretrained(base(), saved_adapter(model, tmp_path / "adapter")).eval()
    assert_close(logits(loaded, device), before)


def test_a_step_of_bounded_needs_the_memory_of_lora_and_a_few_weights(gpu: torch.device) -> None:
    width, layers = 1024, 8
    one_weight = 4 * width * width

    def peak(config: PeftConfig) -> int:
        model = get_peft_model(llama(layers=layers, width=width).to(gpu), config).train()  # type: ignore[arg-type]
        batch = tokens(rows=4, length=64).to(gpu)
        model(batch, labels=batch).loss.backward()  # so that what is made once is there
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        model(batch, labels=batch).loss.backward()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    lora = peak(LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    bounded = peak(llama_config(norm="bounded", target_modules="all-linear", r=8, inner_r=16))
    # Of 56 adapted weights two temporaries are alive at a time; plain autograd would keep some for each.
    assert bounded < lora + 4 * one_weight


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [weight for weight in model.parameters() if weight.requires_grad]


def _scaled_step(scaler: torch.amp.GradScaler, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
