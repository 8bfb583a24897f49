from pathlib import Path
from typing import Any

import pytest
import torch
from adapted_models import adapted as under_adapter
from adapted_models import llama, llama_config, logits
from exported_models import DTYPES, base_of, prompts, targets_of, tuned
from peft import LoraConfig, OFTConfig, PeftModel, PromptTuningConfig, get_peft_model
from tiny_models import tiny_tokenizer
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from secura import MergeError
from secura.adapters.dial import scale_, scaled
from secura.evaluation.merged import merged_for_scoring
from secura.export.merged import merged_model, save_merged


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", ["none", "paper", "bounded", "row_bounded"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma2", "gpt2"])
def test_a_merged_model_is_what_was_scored_to_the_bit(
    architecture: str, norm: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    model = tuned(architecture, dtype, norm=norm)
    ids = torch.tensor(prompts(1))
    with merged_for_scoring(model):
        scored = logits(model, ids)
    assert not torch.equal(scored, logits(base_of(architecture, dtype), ids))
    save_merged(merged_model(model, adapted_dtype=dtype), tiny_tokenizer(chat=True), tmp_path, dtype=dtype)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert loaded.dtype == dtype
    assert torch.equal(logits(loaded, ids), scored)
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == tiny_tokenizer(chat=True).chat_template


def greedy(model: Any) -> dict[int, list[list[int]]]:
    """Eight tokens after each of 200 prompts, those of one length at once."""
    by_length: dict[int, list[list[int]]] = {}
    for prompt in prompts(200):
        by_length.setdefault(len(prompt), []).append(prompt)
    settings = GenerationConfig(max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0)
    with torch.inference_mode():
        return {
            length: model.generate(
                torch.tensor(asked),
                attention_mask=torch.ones(len(asked), length, dtype=torch.long),
                generation_config=settings,
            )[:, length:].tolist()
            for length, asked in by_length.items()
        }


@pytest.mark.parametrize(
    ("architecture", "dtype"),
    [
        pytest.param(each, dtype, marks=() if each == "llama" and dtype == torch.float32 else pytest.mark.slow)
        for each in ("llama", "qwen2", "gemma2", "gpt2")
        for dtype in DTYPES
    ],
)
def test_a_merged_model_gives_the_same_tokens_on_200_prompts(
    architecture: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    model = tuned(architecture, dtype, norm="none")
    with merged_for_scoring(model):
        expected = greedy(model)
    assert sum(map(len, expected.values())) == 200
    assert expected != greedy(base_of(architecture, dtype))
    save_merged(merged_model(model, adapted_dtype=dtype), tiny_tokenizer(), tmp_path, dtype=dtype)
    assert greedy(AutoModelForCausalLM.from_pretrained(tmp_path).eval()) == expected


def test_a_16_bit_base_is_merged_in_32_bits_and_rounded_once() -> None:
    model = tuned("llama", torch.bfloat16, norm="bounded")
    name = "model.layers.0.self_attn.q_proj"
    wide = model.get_base_model().get_submodule(name).effective_weight("default")  # type: ignore[operator]
    merged = merged_model(model, adapted_dtype=torch.float32).get_submodule(name).weight
    assert isinstance(merged, torch.Tensor)
    assert torch.equal(merged, wide)
    assert not torch.equal(wide, wide.bfloat16().float())


@pytest.mark.parametrize("use_dora", [False, True])
def test_an_adapter_of_peft_is_merged_as_peft_does_it(use_dora: bool) -> None:
    config = LoraConfig(r=3, target_modules=targets_of("llama"), use_dora=use_dora, init_lora_weights=False)
    model = get_peft_model(base_of("llama"), config).eval()
    ids = torch.tensor(prompts(1))
    before = logits(model, ids)
    assert_close(logits(merged_model(model, adapted_dtype=None), ids), before, rtol=1e-4, atol=1e-4)  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.5])
def test_a_point_of_the_dial_is_written_as_it_was_scored_whole_modules_too(scale: float) -> None:
    model = under_adapter(llama(), llama_config(norm="bounded", modules_to_save=["lm_head"]))
    head = model.get_base_model().lm_head  # type: ignore[union-attr]
    with torch.no_grad():
        head.modules_to_save["default"].weight.mul_(1.5)  # type: ignore[index, union-attr]
    with scaled(model, scale, merged=True):
        scored = logits(model)
    merged = merged_model(model, adapted_dtype=None, drawn_back=scale_(model, scale))
    assert torch.equal(logits(merged), scored)
    assert_close(merged.lm_head.weight, (1 + 0.5 * scale) * llama().lm_head.weight)  # type: ignore[union-attr]


def test_a_layer_without_a_value_that_the_dial_scales_is_drawn_back_to_its_base() -> None:
    def turned() -> PeftModel:
        config = OFTConfig(oft_block_size=4, target_modules=["q_proj"], init_weights=False, task_type="CAUSAL_LM")
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return get_peft_model(llama(), config).eval()  # type: ignore[return-value]

    with scaled(turned_ := turned(), 0.5):
        scored = logits(turned_)
    model = turned()
    merged = merged_model(model, adapted_dtype=None, drawn_back=scale_(model, 0.5))
    assert_close(logits(merged), scored, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(scored, logits(turned()), atol=1e-2)


def test_tied_embeddings_stay_tied(tmp_path: Path) -> None:
    merged = merged_model(tuned("gemma2", norm="none"), adapted_dtype=None)
    save_merged(merged, tiny_tokenizer(), tmp_path, dtype=torch.bfloat16)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.lm_head.weight.data_ptr() == loaded.model.embed_tokens.weight.data_ptr()


def test_large_models_are_written_in_several_files(tmp_path: Path) -> None:
    merged = merged_model(tuned("llama", norm="none"), adapted_dtype=None)
    save_merged(merged, tiny_tokenizer(), tmp_path, dtype=torch.float32, shard_size="50KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    ids = torch.tensor(prompts(1))
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path), ids), logits(merged, ids))


def test_what_cannot_be_merged_is_refused() -> None:
    with pytest.raises(MergeError, match="norm='released'"):
        merged_model(tuned("llama", norm="released"), adapted_dtype=None)
    virtual = get_peft_model(base_of("llama"), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    with pytest.raises(MergeError, match="virtual tokens"):
        merged_model(virtual, adapted_dtype=None)  # type: ignore[arg-type]


def test_a_broken_adapter_is_refused() -> None:
    model = tuned("llama", norm="none")
    with torch.no_grad():
        next(parameter for parameter in model.parameters() if parameter.requires_grad).fill_(float("nan"))
    with pytest.raises(MergeError, match="NaN or infinity"):
        merged_model(model, adapted_dtype=None)
