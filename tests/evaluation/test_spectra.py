import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_models import tiny_model
from torch.testing import assert_close
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from secura.adapters import SecuraConfig
from secura.evaluation.spectra import spectra


def _moved(model: PeftModel) -> PeftModel:
    """Away from the start, where an adapter changes nothing."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn(weight.shape, generator=draw))
    return model


def test_the_spectrum_after_is_that_of_the_weight_as_it_is_merged() -> None:
    base, same = tiny_model(), tiny_model()
    adapted = _moved(get_peft_model(same, LoraConfig(r=4, target_modules=["q_proj"])))
    found = spectra(base, adapted)
    merged = adapted.merge_and_unload()
    assert [each.layer for each in found] == [name for name, _ in base.named_modules() if name.endswith("q_proj")]
    for each in found:
        before, after = (model.get_submodule(each.layer).weight.detach() for model in (base, merged))
        assert_close(torch.tensor(each.before), torch.linalg.svdvals(before), rtol=1e-5, atol=1e-5)
        assert_close(torch.tensor(each.after), torch.linalg.svdvals(after), rtol=1e-5, atol=1e-5)
        assert each.norm_before == pytest.approx(before.norm().item(), rel=1e-5)
        assert each.norm_after == pytest.approx(after.norm().item(), rel=1e-5)
        assert list(each.before) == sorted(each.before, reverse=True)
        assert each.after != each.before


def test_measuring_leaves_the_trained_model_as_it_was() -> None:
    adapted = _moved(get_peft_model(tiny_model(), LoraConfig(r=4, target_modules=["q_proj"])))
    weights = {name: weight.clone() for name, weight in adapted.state_dict().items()}
    spectra(tiny_model(), adapted)
    for name, weight in adapted.state_dict().items():
        assert torch.equal(weight, weights[name]), name


def test_an_adapter_that_no_single_weight_equals_has_no_spectrum() -> None:
    adapted = _moved(get_peft_model(tiny_model(), SecuraConfig(r=4, norm="released")))
    assert spectra(tiny_model(), adapted) == []


def test_a_model_trained_whole_has_a_spectrum_for_each_linear_layer_below_its_output() -> None:
    trained: PreTrainedModel = tiny_model()
    with torch.no_grad():
        trained.get_submodule("model.layers.0.mlp.up_proj").weight.mul_(2.0)
    found = {each.layer: each for each in spectra(tiny_model(), trained)}
    assert "lm_head" not in found
    doubled = found.pop("model.layers.0.mlp.up_proj")
    assert doubled.norm_after == pytest.approx(2 * doubled.norm_before, rel=1e-6)
    assert len(found) == 2 * 7 - 1
    assert all(each.after == each.before for each in found.values())


def test_at_most_256_values_are_kept_and_the_norm_counts_all() -> None:
    sizes = {"hidden_size": 272, "intermediate_size": 272, "num_attention_heads": 4, "num_key_value_heads": 4}
    wide = LlamaForCausalLM(LlamaConfig(vocab_size=8, num_hidden_layers=1, **sizes))
    found = spectra(wide, wide)
    weight = wide.get_submodule(found[0].layer).weight
    assert len(found[0].before) == len(found[0].after) == 256
    assert found[0].norm_before == pytest.approx(weight.norm().item(), rel=1e-5)
    assert found[0].norm_before > torch.tensor(found[0].before).norm().item()
