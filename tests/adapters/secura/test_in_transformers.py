"""transformers' own adapter methods, which load tensors without PEFT's hooks."""

import copy
import logging
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted_models import adapted, first_layer, gpt2, llama, llama_config, logits, moved, saved_adapter, secura_layers
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from secura import fold, folded_tasks
from secura.errors import ConfigError

BASES = [llama, gpt2]


def move(model: Any, adapter_name: str = "default", seed: int = 2) -> Any:
    return moved(model, seed=seed, adapter_name=adapter_name)


@pytest.mark.parametrize("base", BASES)
def test_add_adapter_starts_as_the_base_and_trains_the_adapter_alone(base: Any) -> None:
    model = base()
    model.add_adapter(llama_config())
    assert torch.equal(logits(model), logits(base()))
    trained = [name for name, one in model.named_parameters() if one.requires_grad]
    assert trained
    assert all(".secura_change.default." in name for name in trained)


def test_set_adapter_chooses_and_disable_adapters_gives_the_base() -> None:
    model = llama()
    for seed, name in enumerate(("one", "two")):
        model.add_adapter(llama_config(norm="none" if name == "one" else "bounded"), adapter_name=name)
        move(model, name, seed)
    seen = {}
    for name in ("one", "two"):
        model.set_adapter(name)
        assert model.active_adapters() == [name]
        seen[name] = logits(model)
    assert (seen["one"] - seen["two"]).abs().max() > 1e-3
    model.disable_adapters()
    assert torch.equal(logits(model), logits(llama()))
    model.enable_adapters()
    assert torch.equal(logits(model), seen["two"])


def test_delete_adapter_leaves_the_other_as_it_was() -> None:
    model = llama()
    for name in ("one", "two"):
        model.add_adapter(llama_config(), adapter_name=name)
        move(model, name)
    model.set_adapter("one")
    expected = logits(model)
    model.delete_adapter("two")
    assert torch.equal(logits(model), expected)
    assert all("two" not in layer.secura_change for layer in secura_layers(model))


def test_a_model_saved_by_transformers_comes_back_through_both_libraries(tmp_path: Path) -> None:
    model = llama()
    model.add_adapter(llama_config(reference="moving"))
    move(model)
    fold(model, "one")
    move(model, seed=5)
    model.save_pretrained(tmp_path)
    through_transformers = llama()
    through_transformers.load_adapter(str(tmp_path))
    through_peft = PeftModel.from_pretrained(llama(), tmp_path)
    for loaded in (through_transformers, through_peft):
        assert torch.equal(logits(loaded), logits(model))
        assert folded_tasks(loaded) == ["one"]


def test_load_adapter_holds_several_adapters_by_name(tmp_path: Path) -> None:
    model = llama()
    expected = {}
    for seed, name in enumerate(("one", "two")):
        single = adapted(llama(), llama_config(), seed=seed)
        fold(single, f"task.{name}")
        expected[name] = logits(single)
        model.load_adapter(str(saved_adapter(single, tmp_path / name)), adapter_name=name)
    for name, wanted in expected.items():
        model.set_adapter(name)
        assert torch.equal(logits(model), wanted)
        assert folded_tasks(model, adapter_name=name) == [f"task.{name}"]


def test_a_loaded_adapter_trains_on_when_asked(tmp_path: Path) -> None:
    folder = saved_adapter(adapted(llama(), llama_config()), tmp_path)
    model = llama()
    model.load_adapter(str(folder), is_trainable=True)
    model(torch.ones(1, 4, dtype=torch.long), labels=torch.ones(1, 4, dtype=torch.long)).loss.backward()
    assert first_layer(model).secura_change["default"].inner.grad is not None


@pytest.mark.parametrize("change", ["cabr", "low_rank"])
def test_a_folder_loaded_as_a_model_reports_nothing(
    change: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    llama().save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    trained = adapted(base, llama_config(change=change, output_bias=True))
    fold(trained, "one")
    folder = saved_adapter(trained, tmp_path / "adapter")
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    with caplog.at_level("WARNING", "transformers"):
        loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert caplog.messages == []
    assert torch.equal(logits(loaded), logits(trained))


def test_a_tensor_that_is_not_ours_is_still_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved_adapter(adapted(llama(), llama_config()), tmp_path)
    tensors = load_file(str(folder / "adapter_model.safetensors"))
    tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"] = torch.ones(1)
    save_file(tensors, str(folder / "adapter_model.safetensors"))
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    with caplog.at_level("WARNING", "transformers"):
        llama().load_adapter(str(folder))
    assert "lora_A" in caplog.text
    assert "secura_" not in caplog.text


def test_a_model_that_has_loaded_an_adapter_can_be_copied_and_pickled(tmp_path: Path) -> None:
    folder = saved_adapter(adapted(llama(), llama_config()), tmp_path)
    model = llama()
    model.load_adapter(str(folder))
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(logits(again), logits(model))


def test_a_weights_file_that_is_cut_short_is_refused_in_a_sentence(tmp_path: Path) -> None:
    folder = saved_adapter(adapted(llama(), llama_config()), tmp_path)
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(ConfigError, match="damaged or cut short"):
        llama().load_adapter(str(folder))
