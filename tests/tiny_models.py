"""Stand-in models for tests: the real architectures, two layers of width 32, random weights."""

from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CONTEXT = 64

_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
}


def tiny_tokenizer(*, chat: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of about 300 tokens; any text encodes."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<eos>", "<pad>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(["What is the colour of the sky? blue and grey"] * 4, trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")
    if chat:
        wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def _qwen2(vocabulary: int) -> PreTrainedModel:
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=vocabulary, **_SIZES))


def _gemma2(vocabulary: int) -> PreTrainedModel:
    return Gemma2ForCausalLM(Gemma2Config(vocab_size=vocabulary, head_dim=8, sliding_window=32, **_SIZES))


def _llama(vocabulary: int) -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **_SIZES))


def _gpt2(vocabulary: int) -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, n_embd=32, n_layer=2, n_head=4, n_positions=CONTEXT))


ARCHITECTURES: dict[str, Callable[[int], PreTrainedModel]] = {
    "qwen2": _qwen2,
    "gemma2": _gemma2,
    "llama": _llama,
    "gpt2": _gpt2,
}


def tiny_model(architecture: str = "llama", *, seed: int = 0) -> PreTrainedModel:
    """A randomly initialised model, the same for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ARCHITECTURES[architecture](len(tiny_tokenizer()))
    model.config.eos_token_id = model.generation_config.eos_token_id = tiny_tokenizer().eos_token_id
    model.config.bos_token_id = model.generation_config.bos_token_id = None
    return model.eval()


def save_tiny_model(folder: Path, architecture: str = "llama", *, chat: bool = False, seed: int = 0) -> Path:
    """Save a model and its tokenizer as `from_pretrained` reads them."""
    tiny_model(architecture, seed=seed).save_pretrained(folder)
    tiny_tokenizer(chat=chat).save_pretrained(folder)
    return folder
