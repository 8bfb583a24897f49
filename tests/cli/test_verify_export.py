import json
import shutil
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest
from exported_models import tuned
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny_models import tiny_tokenizer
from transformers import AutoModelForCausalLM

from secura.cli.app import DONE, USAGE, run
from secura.evaluation.llama_cpp import llama_cpp_is_installed
from secura.evaluation.parity import ask_model
from secura.experiments import verify_export as verify_run

needs_llama_cpp = pytest.mark.skipif(not llama_cpp_is_installed(), reason="xllamacpp is not installed")
DIFFERS = 2
FEW = ["--questions", "kinds", "--prompts", "3", "--max-tokens", "4", "--count", "3"]


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, an adapter, and every form of it."""
    folder = tmp_path_factory.mktemp("exports")
    tuned("llama").unload().save_pretrained(folder / "base")  # type: ignore[operator]
    tiny_tokenizer(chat=True).save_pretrained(folder / "base")
    tuned("llama", norm="none").save_pretrained(str(folder / "adapter"))
    for form in ("lora", "merged", "gguf", "gguf-lora"):
        assert run(["export", str(folder / "adapter"), "--to", form, "--base", str(folder / "base")]) == DONE
    small = ["--quantize", "q8_0", "--out", str(folder / "adapter-q8_0")]
    assert run(["export", str(folder / "adapter"), "--to", "gguf", "--base", str(folder / "base"), *small]) == DONE
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECURA_CACHE", str(tmp_path / "cache"))


def verify(exports: Path, export: Path) -> int:
    return run(["verify-export", str(exports / "base"), str(exports / "adapter"), str(export), *FEW])


def changed(exports: Path, form: str, to: Path) -> Path:
    shutil.copytree(exports / f"adapter-{form}", to)
    (to / "verification.json").unlink(missing_ok=True)
    return to


@pytest.mark.parametrize(
    "form",
    [
        "lora",
        "merged",
        pytest.param("gguf", marks=needs_llama_cpp),
        pytest.param("gguf-lora", marks=[needs_llama_cpp, pytest.mark.slow]),
        pytest.param("q8_0", marks=[needs_llama_cpp, pytest.mark.slow]),
    ],
)
def test_a_sound_export_passes_and_is_signed_off(form: str, exports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = exports / f"adapter-{form}"
    assert verify(exports, folder) == DONE, capsys.readouterr().out
    assert "what was tested" in capsys.readouterr().out
    signed = json.loads((folder / "verification.json").read_text())
    assert signed["passed"]
    assert signed["answers"]["prompts"] == 3
    assert signed["weights"]["wrong"] == []
    assert "export.json" in signed["files_sha256"]
    noise = signed["weights"]["largest_noise_over_signal"]
    assert (0.001 < noise < 1) if form == "q8_0" else noise < 1e-4


def scale_a_layer(tensors: dict) -> None:
    tensors["model.layers.1.mlp.up_proj.weight"] *= 1.01


def swap_tensors(tensors: dict) -> None:
    names = ("model.layers.0.self_attn.k_proj.weight", "model.layers.0.self_attn.v_proj.weight")
    tensors[names[0]], tensors[names[1]] = tensors[names[1]], tensors[names[0]]


@pytest.mark.parametrize(
    ("change", "named"), [(scale_a_layer, "model.layers.1.mlp.up_proj.weight"), (swap_tensors, "0.self_attn.k_proj")]
)
def test_wrong_weights_are_named_in_a_merged_model(
    change: Callable[[dict], None], named: str, exports: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = changed(exports, "merged", tmp_path / "wrong")
    tensors = load_file(str(folder / "model.safetensors"))
    change(tensors)
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    assert verify(exports, folder) == DIFFERS
    assert f"{named}" in capsys.readouterr().out
    assert not json.loads((folder / "verification.json").read_text())["passed"]


def test_a_wrong_end_and_another_template_are_named_in_a_merged_model(
    exports: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = changed(exports, "merged", tmp_path / "wrong")
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": 7}))
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|assistant|>", "<|assistant|> "))
    assert verify(exports, folder) == DIFFERS
    shown = capsys.readouterr().out
    assert "answers end at tokens [" in shown
    assert "7], not at [0, 5]" in shown
    assert "the chat template is different" in shown


def swap_layers(tensors: dict) -> None:
    names = [f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_A.weight" for layer in (0, 1)]
    tensors[names[0]], tensors[names[1]] = tensors[names[1]], tensors[names[0]]


def test_a_swapped_factor_a_wrong_end_and_another_template_are_named_in_a_lora(
    exports: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = changed(exports, "lora", tmp_path / "wrong")
    tensors = load_file(str(folder / "adapter_model.safetensors"))
    swap_layers(tensors)
    save_file(tensors, str(folder / "adapter_model.safetensors"))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "eos_token": "<|user|>"}))
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    assert verify(exports, folder) == DIFFERS
    shown = capsys.readouterr().out
    assert "model.layers.0.self_attn.q_proj differs by" in shown
    assert "model.layers.1.self_attn.q_proj differs by" in shown
    assert "the chat template is different" in shown
    assert "answers end at tokens [" in shown


def test_a_scaled_factor_is_named_in_a_lora(exports: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = changed(exports, "lora", tmp_path / "wrong")
    tensors = load_file(str(folder / "adapter_model.safetensors"))
    tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"] *= 1.2
    save_file(tensors, str(folder / "adapter_model.safetensors"))
    assert verify(exports, folder) == DIFFERS
    assert "model.layers.0.self_attn.q_proj differs by 0.04, allowed is 0.01" in capsys.readouterr().out


def rewritten(file: Path, change: Callable[[dict, dict], None]) -> None:
    """Write a GGUF file again with other values."""
    reader = gguf.GGUFReader(file)
    fields = {name: field for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    values = {name: field.contents() for name, field in fields.items()}
    tensors = {tensor.name: tensor.data.copy() for tensor in reader.tensors}
    kinds = {tensor.name: tensor.tensor_type for tensor in reader.tensors}
    change(values, tensors)
    writer = gguf.GGUFWriter(str(file) + ".new", values.pop("general.architecture"))
    for name, value in values.items():
        if name in fields:
            inner = fields[name].types[1] if len(fields[name].types) > 1 else None
            writer.add_key_value(name, value, fields[name].types[0], inner)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor, raw_dtype=kinds[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    Path(str(file) + ".new").replace(file)


def scale_in_gguf(values: dict, tensors: dict) -> None:
    tensors["blk.1.ffn_up.weight"] = (tensors["blk.1.ffn_up.weight"] * 1.01).astype(np.float32)


def swap_in_gguf(values: dict, tensors: dict) -> None:
    names = ("blk.0.attn_k.weight", "blk.0.attn_v.weight")
    tensors[names[0]], tensors[names[1]] = tensors[names[1]], tensors[names[0]]


def end_elsewhere(values: dict, tensors: dict) -> None:
    values["tokenizer.ggml.eos_token_id"] = 7


def other_template(values: dict, tensors: dict) -> None:
    values["tokenizer.chat_template"] += " "


@needs_llama_cpp
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (scale_in_gguf, "model.layers.1.mlp.up_proj.weight differs by"),
        pytest.param(swap_in_gguf, "0.self_attn.k_proj.weight differs by", marks=pytest.mark.slow),
        (end_elsewhere, "the end-of-text token is 7, not 0"),
        pytest.param(other_template, "the chat template is different", marks=pytest.mark.slow),
    ],
)
def test_what_is_wrong_in_a_gguf_is_named(
    change: Callable[[dict, dict], None],
    says: str,
    exports: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = changed(exports, "gguf", tmp_path / "wrong")
    rewritten(folder / "model.gguf", change)
    assert verify(exports, folder) == DIFFERS
    assert says in capsys.readouterr().out


@pytest.mark.slow
@needs_llama_cpp
@pytest.mark.parametrize("change", ["scale", "swap"])
def test_what_is_wrong_in_a_lora_of_gguf_is_named(
    change: str, exports: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def act(values: dict, tensors: dict) -> None:
        first, second = (f"blk.{layer}.attn_q.weight.lora_a" for layer in (0, 1))
        if change == "scale":
            tensors[first] = (tensors[first] * 1.2).astype(np.float32)
        else:
            tensors[first], tensors[second] = tensors[second], tensors[first]

    folder = changed(exports, "gguf-lora", tmp_path / "wrong")
    rewritten(folder / "lora.gguf", act)
    assert verify(exports, folder) == DIFFERS
    assert "model.layers.0.self_attn.q_proj differs by" in capsys.readouterr().out


@pytest.mark.ci
def test_a_run_is_asked_its_own_held_out_rows_and_what_was_gained_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["training.steps=2", "retention.per_family=2", "data.test_rows=4"]
    out = tmp_path / "run"
    assert run(["train", "--out", str(out), *(part for each in few for part in ("--set", each))]) == DONE
    assert run(["export", str(out), "--to", "merged"]) == DONE
    capsys.readouterr()
    assert run(["verify-export", "bundled", str(out), str(tmp_path / "run-merged"), *FEW]) == DONE
    assert "gain +" in capsys.readouterr().out
    stored = (tmp_path / "run-merged" / "verification.json").read_text()
    scores = {each["task"]: each for each in json.loads(stored)["scores"]}
    learned = next(each for name, each in scores.items() if name != "kinds")
    assert learned["gain_export"] == learned["export"] - learned["base"]
    assert learned["kept_export"] is None
    assert scores["kinds"]["gain_export"] is None
    assert scores["kinds"]["kept_export"] is not None
    answers = json.loads((out / "retention.json").read_text())["new_task"]["answers"]
    assert not any(answer["prompt"][:20] in stored for answer in answers)


class StandInEngine:
    """vLLM's classes, as far as they are called, answered by transformers."""

    spoilt = False

    def __init__(self, *, model: str, dtype: str, max_model_len: int, max_logprobs: int, **more: Any) -> None:
        assert more.pop("enforce_eager")
        self.dtype, self.max_logprobs, self.lora_rank = dtype, max_logprobs, more.get("max_lora_rank")
        self.model: Any = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)

    def generate(self, prompts: list[dict], wanted: Any, *, lora_request: Any, use_tqdm: bool) -> list[Any]:
        assert not use_tqdm
        if lora_request is not None and not isinstance(self.model, PeftModel):
            self.model = PeftModel.from_pretrained(self.model, lora_request.lora_path)
            assert self.model.active_peft_config.r == self.lora_rank
        ask = ask_model(self.model, ends=wanted.stop_token_ids, max_tokens=wanted.max_tokens, shown=wanted.logprobs)
        given = ask(prompts[0]["prompt_token_ids"], None)
        steps = [
            {
                int(token): SimpleNamespace(logprob=float(value) - (token % 2 if self.spoilt else 0))
                for token, value in zip(each.tokens.tolist(), each.log_probs.tolist(), strict=True)
            }
            for each in given.distributions
            if each is not None
        ]
        return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=given.tokens, logprobs=steps)])]


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> type[StandInEngine]:
    def request(lora_name: str, lora_int_id: int, lora_path: str) -> SimpleNamespace:
        return SimpleNamespace(lora_path=lora_path)

    parts = {"LLM": StandInEngine, "SamplingParams": SimpleNamespace}
    for name, content in (("vllm", parts), ("vllm.lora", {}), ("vllm.lora.request", {"LoRARequest": request})):
        module = ModuleType(name)
        module.__dict__.update(content)
        module.__spec__ = ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(StandInEngine, "spoilt", False)
    return StandInEngine


@pytest.mark.parametrize("form", ["lora", "merged"])
def test_where_vllm_is_installed_it_is_asked_too(
    form: str, exports: Path, tmp_path: Path, vllm: type[StandInEngine], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = changed(exports, form, tmp_path / "export")
    assert verify(exports, folder) == DONE
    assert "through vLLM: 3 of 3 prompts in the same tokens" in capsys.readouterr().out
    signed = json.loads((folder / "verification.json").read_text())["vllm"]
    assert signed["same_tokens"] == 3
    assert signed["mean_kl_nats"] < 1e-6


def test_an_export_that_vllm_computes_otherwise_is_not_passed(
    exports: Path, tmp_path: Path, vllm: type[StandInEngine], capsys: pytest.CaptureFixture[str]
) -> None:
    vllm.spoilt = True
    folder = changed(exports, "merged", tmp_path / "export")
    assert verify(exports, folder) == DIFFERS
    assert "mean divergence through vLLM is" in capsys.readouterr().out
    asked = ["verify-export", str(exports / "base"), str(exports / "adapter"), str(folder), *FEW]
    assert run([*asked, "--no-vllm"]) == DONE


def test_asked_for_where_it_is_not_installed_vllm_is_named(
    exports: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify_run, "vllm_is_installed", lambda: False)
    asked = ["verify-export", str(exports / "base"), str(exports / "adapter"), str(exports / "adapter-merged")]
    assert run([*asked, "--vllm"]) == USAGE
    assert "pip install vllm" in capsys.readouterr().err


def test_wrong_usage_is_exit_code_3(exports: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(exports, tmp_path) == USAGE
    assert "holds no export" in capsys.readouterr().err
