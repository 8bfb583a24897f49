import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from adapted_models import llama, logits
from exported_models import base_of, prompts, tuned
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from secura import ConfigError
from secura.export.save_pretrained import teach_save_pretrained

IDS = torch.tensor(prompts(1))


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_an_exact_adapter_is_saved_as_a_lora_of_peft(architecture: str, tmp_path: Path) -> None:
    model = tuned(architecture, norm="none")
    model.save_pretrained(tmp_path, as_lora=True)
    loaded = PeftModel.from_pretrained(base_of(architecture), tmp_path).eval()
    assert loaded.active_peft_config.peft_type == "LORA"
    assert torch.equal(logits(loaded, IDS), logits(model, IDS))


def test_without_the_word_it_is_saved_as_it_is(tmp_path: Path) -> None:
    tuned("llama", norm="none").save_pretrained(str(tmp_path))
    assert PeftModel.from_pretrained(base_of("llama"), tmp_path).active_peft_config.peft_type == "SECURA"


def test_an_adapter_of_another_name_is_saved_where_peft_would(tmp_path: Path) -> None:
    model = get_peft_model(llama(), LoraConfig(task_type="CAUSAL_LM"), adapter_name="mine")
    model.save_pretrained(tmp_path, as_lora=True, selected_adapters=["mine"])
    assert (tmp_path / "mine" / "adapter_model.safetensors").is_file()
    model.save_pretrained(tmp_path / "second process", as_lora=True, is_main_process=False)
    assert not (tmp_path / "second process").exists()


def test_what_a_lora_would_lose_or_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"full rank.*secura export --to lora"):
        tuned("llama", norm="bounded").save_pretrained(tmp_path / "new", as_lora=True)
    exact = tuned("llama", norm="none")
    with pytest.raises(ConfigError, match="does not take safe_serialization"):
        exact.save_pretrained(tmp_path / "new", as_lora=True, safe_serialization=False)
    with pytest.raises(ConfigError, match="the active adapter, 'default'"):
        exact.save_pretrained(tmp_path / "new", as_lora=True, selected_adapters=["other"])
    with pytest.raises(ConfigError, match="name every argument"):
        exact.save_pretrained(tmp_path / "new", True, as_lora=True)
    assert not (tmp_path / "new").exists()


def test_teaching_it_again_changes_nothing() -> None:
    before = PeftModel.save_pretrained
    teach_save_pretrained()
    assert PeftModel.save_pretrained is before


@pytest.mark.slow
def test_where_secura_cannot_be_imported_peft_loads_the_lora_and_says_what_the_adapter_needs(tmp_path: Path) -> None:
    model = tuned("llama", norm="none")
    base_of("llama").save_pretrained(tmp_path / "base")
    model.save_pretrained(tmp_path / "lora", as_lora=True)
    model.save_pretrained(str(tmp_path / "own"))
    save_file({"ids": IDS}, str(tmp_path / "asked.safetensors"))
    program = f"""
import sys
sys.modules["secura"] = None
from pathlib import Path
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
here = Path({str(tmp_path)!r})
for load in (
    lambda: PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(here / "base"), here / "own"),
    lambda: AutoModelForCausalLM.from_pretrained(here / "base").load_adapter(str(here / "own")),
):
    try:
        load()
    except KeyError as problem:
        assert "`import secura` before" in str(problem) and "pip install secura" in str(problem), problem
    else:
        raise AssertionError("it was loaded")
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(here / "base"), here / "lora").eval()
with torch.no_grad():
    save_file({{"logits": model(load_file(here / "asked.safetensors")["ids"]).logits}}, here / "answered.safetensors")
"""
    path = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if not entry.endswith("src")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert torch.equal(load_file(str(tmp_path / "answered.safetensors"))["logits"], logits(model, IDS))
