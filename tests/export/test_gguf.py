"""GGUF files through llama.cpp itself; skipped where xllamacpp is not installed."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from exported_models import DTYPES, base_of, prompts, tuned
from gguf import GGUFReader
from tiny_models import tiny_tokenizer
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from secura import ConfigError
from secura.evaluation.llama_cpp import LlamaCpp, LlamaCppSettings, llama_cpp_is_installed
from secura.evaluation.parity import Parity, ask_model, compare_answers
from secura.export.gguf_lora import write_gguf_lora
from secura.export.gguf_model import write_gguf
from secura.export.lora import as_lora
from secura.export.merged import merged_model

needs_llama_cpp = pytest.mark.skipif(not llama_cpp_is_installed(), reason="xllamacpp is not installed")
slow = pytest.mark.slow
ARCHITECTURES = ("llama", "qwen2", "gemma2", "gpt2")
KL_OF_FLOAT32 = 2e-5
"""llama.cpp reads GELU from a table in 16 bits, and multiplies in another order."""


def parity(model: torch.nn.Module, file: Path, lora: Path | None = None, *, count: int = 50) -> Parity:
    asked = prompts(count)
    # llama.cpp takes a token of this name for the end of a turn, whatever a file says.
    end_of_turn = tiny_tokenizer().convert_tokens_to_ids("<|end|>")
    ask = ask_model(model, ends=[0, end_of_turn], max_tokens=8)  # type: ignore[arg-type]
    reference = [ask(prompt, None) for prompt in asked]
    with LlamaCpp(LlamaCppSettings(model=file, lora=lora, context=128)) as served:

        def answer(prompt: Sequence[int], path: Sequence[int] | None):
            return served.answer(prompt, path, max_tokens=8, shown=300)

        return compare_answers(asked, reference, answer)


@pytest.mark.ci
@needs_llama_cpp
@pytest.mark.parametrize(
    ("architecture", "dtype"),
    [
        pytest.param(architecture, dtype, marks=() if architecture == "llama" and dtype == torch.float32 else slow)
        for architecture in ARCHITECTURES
        for dtype in DTYPES
    ],
)
def test_llama_cpp_gives_the_same_tokens_merged_and_by_a_lora(
    architecture: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    model = tuned(architecture, dtype, norm="none")
    tokenizer = tiny_tokenizer()
    write_gguf_lora(tmp_path / "lora.gguf", as_lora(model), model.get_base_model().config, name="lora")
    write_gguf(tmp_path / "base.gguf", base_of(architecture, dtype), tokenizer, kind="f32", name="base")
    merged = merged_model(model, adapted_dtype=torch.float32)
    write_gguf(tmp_path / "merged.gguf", merged, tokenizer, kind="f32", name="merged")
    merged = merged.float().eval()
    for file, lora in (("merged.gguf", None), ("base.gguf", tmp_path / "lora.gguf")):
        found = parity(merged, tmp_path / file, lora)
        assert found.largest_kl < KL_OF_FLOAT32
        assert found.same + found.ties == len(found.prompts)
        assert found.ties <= 2
    assert parity(merged, tmp_path / "base.gguf", count=4).largest_kl > 20 * KL_OF_FLOAT32


@slow
@needs_llama_cpp
def test_a_quantized_file_answers_nearly_alike(tmp_path: Path) -> None:
    merged = merged_model(tuned("llama", norm="bounded"), adapted_dtype=torch.float32).eval()
    found = {}
    for kind in ("f16", "bf16", "q8_0", "q4_0"):
        write_gguf(tmp_path / f"{kind}.gguf", merged, tiny_tokenizer(), kind=kind, name=kind)
        found[kind] = parity(merged, tmp_path / f"{kind}.gguf", count=4).mean_kl
    assert 0 < found["f16"] < found["bf16"] < found["q8_0"] < found["q4_0"] < 0.3  # in this model, not in every one


def test_matrices_are_stored_as_asked_and_vectors_in_32_bits(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", base_of("gpt2"), tiny_tokenizer(), kind="q8_0", name="small")
    types = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(tmp_path / "model.gguf").tensors}
    assert types["blk.0.attn_qkv.weight"] == types["token_embd.weight"] == "Q8_0"
    assert types["blk.0.attn_qkv.bias"] == types["output_norm.weight"] == types["position_embd.weight"] == "F32"
    assert "output.weight" not in types  # tied to the embedding


@needs_llama_cpp
def test_frequencies_scaled_as_in_llama_3_1_are_computed_alike(tmp_path: Path) -> None:
    scaling = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    }
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer()),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        rope_parameters=scaling,
        attention_bias=True,
        bos_token_id=None,
        eos_token_id=0,
    )
    model = LlamaForCausalLM(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.normal_(std=0.3, generator=generator)
    write_gguf(tmp_path / "model.gguf", model, tiny_tokenizer(), kind="f32", name="scaled")
    assert parity(model, tmp_path / "model.gguf", count=6).largest_kl < KL_OF_FLOAT32


TEXTS = (
    "What is the colour of the sky?",
    " two  spaces,\ttabs\n\nand lines ",
    "It's 1234 o'clock; größer, 漢字, 🙂!",
    "<|user|>Hello<|end|>\n<|assistant|>",
)


def sentencepiece_tokenizer(*, first: bool) -> PreTrainedTokenizerFast:
    """A fast tokenizer as transformers makes it from a SentencePiece model."""
    tokenizer = Tokenizer(BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    spaces = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if first else spaces
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=340, special_tokens=special)
    # Words part at spaces in training, as SentencePiece has it, and nowhere afterwards.
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator([*TEXTS[:2], "What is it? The colour of what is the sky?"] * 3, trainer)
    plain = json.loads(tokenizer.to_str())
    plain["pre_tokenizer"] = None
    plain["added_tokens"] = [token for token in plain["added_tokens"] if not token["content"].startswith("<0x")]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(plain)), bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@needs_llama_cpp
@pytest.mark.parametrize("kind", ["byte-level", "digits", "sentencepiece", "sentencepiece-first"])
def test_llama_cpp_reads_a_text_in_the_same_tokens(kind: str, tmp_path: Path) -> None:
    if kind.startswith("sentencepiece"):
        tokenizer = sentencepiece_tokenizer(first=kind.endswith("first"))
    else:
        tokenizer = tiny_tokenizer(chat=True)
        if kind == "digits":
            backend = tokenizer.backend_tokenizer
            backend.pre_tokenizer = pre_tokenizers.Sequence(
                [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
            )
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 3,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    write_gguf(tmp_path / "model.gguf", LlamaForCausalLM(config), tokenizer, kind="f32", name="tokens")
    with LlamaCpp(LlamaCppSettings(model=tmp_path / "model.gguf", context=64)) as served:
        for text in TEXTS[:3] if kind.startswith("sentencepiece") else TEXTS:
            assert served.tokens_of(text) == tokenizer(text, add_special_tokens=False)["input_ids"]
        if tokenizer.chat_template:
            chat = [{"role": "user", "content": "Hello"}]
            expected = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
            assert served.templated(chat) == expected


def test_what_llama_cpp_would_compute_otherwise_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.gguf"
    with pytest.raises(ConfigError, match="known: f32, f16, bf16, q8_0"):
        write_gguf(path, base_of("llama"), tiny_tokenizer(), kind="q9", name="x")
    monkeypatch.setattr("secura.export.llama_quantize.quantizer", lambda: None)
    with pytest.raises(ConfigError, match="llama-quantize, which is not on the PATH"):
        write_gguf(path, base_of("llama"), tiny_tokenizer(), kind="q4_k_m", name="x")
    other = base_of("llama")
    other.config.model_type = "mamba"
    with pytest.raises(ConfigError, match="convert_hf_to_gguf"):
        write_gguf(path, other, tiny_tokenizer(), kind="f32", name="x")
    gemma = base_of("gemma2")
    gemma.config.query_pre_attn_scalar = 256
    with pytest.raises(ConfigError, match="query_pre_attn_scalar is 256"):
        write_gguf(path, gemma, tiny_tokenizer(), kind="f32", name="x")
    splitting = tiny_tokenizer()
    splitting.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(ConfigError, match="splits texts by a rule"):
        write_gguf(path, base_of("llama"), splitting, kind="f32", name="x")
    small = base_of("llama")
    small.config.vocab_size = 100
    with pytest.raises(ConfigError, match="embeddings for 100"):
        write_gguf(path, small, tiny_tokenizer(), kind="f32", name="x")


def test_a_lora_of_gguf_holds_no_whole_module(tmp_path: Path) -> None:
    model = tuned("llama", norm="none", modules_to_save=["lm_head"])
    with pytest.raises(ConfigError, match="lm_head whole"):
        write_gguf_lora(tmp_path / "lora.gguf", as_lora(model), model.get_base_model().config, name="x")
