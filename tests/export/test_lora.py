import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from adapted_models import adapted as under_adapter
from adapted_models import llama, llama_config, logits, moved
from exported_models import DTYPES, base_of, prompts, targets_of, tuned
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.conversion import convert_to_lora
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close

from secura import ConfigError, MergeError, SecuraConfig, fold
from secura.adapters.dial import scale_, scaled
from secura.export.lora import Lora, as_lora, save_lora

LOW_RANK = {
    "cabr": {"change": "cabr", "norm": "none"},
    "cur": {"change": "cur", "norm": "none"},
    "low_rank": {"change": "low_rank", "norm": "none", "alpha": 8.0},
    "cabr, rows bounded": {"change": "cabr", "norm": "row_bounded", "tau": 0.05},
    "low_rank, rows bounded": {"change": "low_rank", "norm": "row_bounded", "tau": 0.05},
}


def saved(lora: Lora, model: PeftModel, folder: Path) -> Path:
    names = [name for name, _ in model.get_base_model().named_modules()]
    save_lora(lora, folder, base="base", module_names=names, dtype=torch.float32)
    return folder


def under_lora(lora: Lora, model: PeftModel, base: torch.nn.Module, folder: Path) -> PeftModel:
    return PeftModel.from_pretrained(base, str(saved(lora, model, folder))).eval()  # type: ignore[arg-type]


@pytest.mark.ci
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("change", LOW_RANK)
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma2", "gpt2"])
def test_a_change_of_low_rank_is_the_same_to_the_bit(
    architecture: str, change: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    model = tuned(architecture, dtype, **LOW_RANK[change])
    lora = as_lora(model)
    assert lora.exact
    assert (lora.rank, lora.worst.lost) == (8, 0.0)  # 4, padded to the next rank that vLLM serves
    ids = torch.tensor([prompts(1)[0] * 2])
    as_it_was = logits(base_of(architecture, dtype), ids)
    assert not torch.equal(logits(model, ids), as_it_was)
    assert torch.equal(logits(under_lora(lora, model, base_of(architecture, dtype), tmp_path), ids), logits(model, ids))


@pytest.mark.parametrize("change", ["cabr", "low_rank"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_undamped_folds_with_nothing_learned_since_are_exact(change: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = tuned("llama", dtype, change=change, norm="bounded", reference="moving", fold="undamped")
    fold(model, "first")
    assert as_lora(model).exact
    fold(moved(model, 3), "second")
    lora = as_lora(model)
    assert lora.exact
    assert max(layer.rank for layer in lora.layers) == (4 if change == "cabr" else 8)
    tolerance = 1e-4 if dtype == torch.float32 else 0.1  # bfloat16 keeps 8 bits of logits around 5
    assert_close(
        logits(under_lora(lora, model, base_of("llama", dtype), tmp_path), torch.tensor(prompts(1))),
        logits(model, torch.tensor(prompts(1))),
        atol=tolerance,
        rtol=tolerance,
    )
    assert not as_lora(moved(model, 4), rank=4).exact


def test_a_bounded_change_loses_what_its_smaller_singular_values_hold() -> None:
    model = tuned("llama", norm="bounded")
    lora = as_lora(model, rank=4)
    assert not lora.exact
    assert lora.over_limit
    layer = lora.layers[0]
    module = model.get_base_model().get_submodule(layer.name)
    change: Tensor = module.effective_weight("default") - module.get_base_layer().weight  # type: ignore[operator, union-attr]
    values = torch.linalg.svdvals(change.double())
    assert_close(layer.lost, (values[4:].square().sum() / values.square().sum()).item(), rtol=1e-4, atol=0)


def test_without_a_rank_the_lowest_is_taken_that_keeps_to_the_limit() -> None:
    model = tuned("llama", norm="bounded")
    lora = as_lora(model, limit=0.02)
    assert not lora.over_limit
    for layer in lora.layers:
        assert layer.lost <= 0.02
        if layer.rank > 1:
            lower = as_lora(model, rank=layer.rank - 1)
            assert next(each for each in lower.layers if each.name == layer.name).lost > 0.02


def test_a_point_of_the_dial_is_written_as_it_was_scored(tmp_path: Path) -> None:
    model = tuned("gpt2", norm="none")
    ids = torch.tensor(prompts(1))
    with scaled(model, 0.5):
        half = logits(model, ids)
    assert scale_(model, 0.5) == {}
    lora = as_lora(model)
    assert lora.exact
    assert_close(logits(under_lora(lora, model, base_of("gpt2"), tmp_path), ids), half)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_lora_of_peft_stays_itself_and_a_dora_does_not(architecture: str, tmp_path: Path) -> None:
    def trained(**settings: object) -> PeftModel:
        config = LoraConfig(r=3, lora_alpha=5, target_modules=targets_of(architecture), **settings)  # type: ignore[arg-type]
        model = get_peft_model(base_of(architecture), config)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        return model.eval()  # type: ignore[return-value]

    model = trained()
    lora = as_lora(model)
    assert lora.exact
    ids = torch.tensor(prompts(1))
    assert_close(logits(under_lora(lora, model, base_of(architecture), tmp_path), ids), logits(model, ids))
    assert not as_lora(trained(use_dora=True), rank=3).exact


def test_layers_of_several_ranks_become_one_and_modules_saved_whole_come_along(tmp_path: Path) -> None:
    config = llama_config(norm="none", rank_pattern={"q_proj": 2}, modules_to_save=["lm_head"])
    model = under_adapter(llama(), config)
    with torch.no_grad():
        model.get_base_model().lm_head.modules_to_save["default"].weight.mul_(1.5)  # type: ignore[index, union-attr]
    lora = as_lora(model)
    assert {layer.rank for layer in lora.layers} == {2, 4}
    assert list(lora.whole_modules) == ["lm_head"]
    assert_close(logits(under_lora(lora, model, llama(), tmp_path)), logits(model), rtol=1e-4, atol=1e-4)


def test_a_trained_output_bias_comes_along(tmp_path: Path) -> None:
    model = under_adapter(
        base_of("gpt2"),
        SecuraConfig(r=4, norm="none", target_modules=["c_attn"], output_bias=True, task_type="CAUSAL_LM"),
    )
    ids = torch.tensor(prompts(1))
    assert_close(logits(under_lora(as_lora(model), model, base_of("gpt2"), tmp_path), ids), logits(model, ids))


def test_what_no_single_weight_equals_is_refused() -> None:
    with pytest.raises(MergeError, match="norm='released'"):
        as_lora(tuned("llama", norm="released"))
    with pytest.raises(ConfigError, match="rank is 0"):
        as_lora(tuned("llama", norm="none"), rank=0)


@pytest.mark.ci
def test_stock_peft_loads_it_where_secura_cannot_be_imported(tmp_path: Path) -> None:
    ids = torch.tensor(prompts(1))
    expected = {}
    for architecture in ("llama", "qwen2", "gemma2", "gpt2"):
        for dtype in DTYPES:
            folder = tmp_path / f"{architecture} {dtype}"
            model = tuned(architecture, dtype, norm="none")
            base_of(architecture, dtype).save_pretrained(folder / "base")
            (folder / "lora").mkdir()
            saved(as_lora(model), model, folder / "lora")
            expected[folder.name] = logits(model, ids)
    program = f"""
import sys
sys.modules["secura"] = None
from pathlib import Path
import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
answered = {{}}
for folder in Path({str(tmp_path)!r}).iterdir():
    base = AutoModelForCausalLM.from_pretrained(folder / "base")
    model = PeftModel.from_pretrained(base, folder / "lora").eval()
    with torch.no_grad():
        answered[folder.name] = model(torch.tensor({ids.tolist()})).logits
save_file(answered, {str(tmp_path / "answered.safetensors")!r})
"""
    path = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if not entry.endswith("src")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answered = load_file(str(tmp_path / "answered.safetensors"))
    assert answered.keys() == expected.keys()
    for name, found in answered.items():
        assert torch.equal(found, expected[name]), name


def test_pefts_own_conversion_warns_where_a_low_rank_loses_part_of_the_change() -> None:
    with pytest.warns(UserWarning, match="secura export --to lora"):
        convert_to_lora(tuned("llama", norm="bounded"), rank=4)
    exact = tuned("llama", norm="none")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        convert_to_lora(exact, rank=4)
