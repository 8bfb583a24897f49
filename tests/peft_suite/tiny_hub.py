"""Stand-ins for the tiny models that PEFT's suite takes from the Hugging Face Hub.

They lie in folders named as on the Hub. A test that runs where those folders are finds them
by the names it has always used, since `from_pretrained` looks for a folder first.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from peft import LoraConfig
from tiny_models import tiny_tokenizer

_VOCABULARY = 512
_ENCODER: dict[str, Any] = {
    "vocab_size": _VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "max_position_embeddings": 128,
}
_DECODER: dict[str, Any] = {
    "vocab_size": _VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
    "pad_token_id": 0,  # not 1, the token of the suite's inputs: padding embeds to zero
}
_OPT: dict[str, Any] = {
    "vocab_size": _VOCABULARY,
    "hidden_size": 16,
    "word_embed_proj_dim": 16,
    "ffn_dim": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
_GPT2: dict[str, Any] = {
    "vocab_size": _VOCABULARY,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 128,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
_BART: dict[str, Any] = {
    "vocab_size": _VOCABULARY,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 4,
    "decoder_ffn_dim": 4,
    "max_position_embeddings": 128,
}
_T5: dict[str, Any] = {
    "vocab_size": _VOCABULARY,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 37,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}

MODELS: dict[str, Callable[[], tf.PreTrainedModel]] = {
    "peft-internal-testing/tiny-random-OPTForCausalLM": lambda: tf.OPTForCausalLM(tf.OPTConfig(**_OPT)),
    "peft-internal-testing/opt-125m": lambda: tf.OPTForCausalLM(tf.OPTConfig(num_hidden_layers=12, **_OPT)),
    "peft-internal-testing/tiny-random-GPT2LMHeadModel": lambda: tf.GPT2LMHeadModel(tf.GPT2Config(**_GPT2)),
    "trl-internal-testing/tiny-random-LlamaForCausalLM": lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**_DECODER)),
    "trl-internal-testing/tiny-LlamaForSequenceClassification-3.2": lambda: tf.LlamaForSequenceClassification(
        tf.LlamaConfig(**_DECODER)
    ),
    "peft-internal-testing/tiny-random-BartForConditionalGeneration": lambda: tf.BartForConditionalGeneration(
        tf.BartConfig(**_BART)
    ),
    "peft-internal-testing/tiny-random-T5ForConditionalGeneration-calibrated": lambda: tf.T5ForConditionalGeneration(
        tf.T5Config(**_T5)
    ),
    "peft-internal-testing/tiny-random-BertModel": lambda: tf.BertModel(tf.BertConfig(**_ENCODER)),
    "peft-internal-testing/tiny-random-RobertaModel": lambda: tf.RobertaModel(tf.RobertaConfig(**_ENCODER)),
    "peft-internal-testing/tiny-random-BertForSequenceClassification": lambda: tf.BertForSequenceClassification(
        tf.BertConfig(**_ENCODER)
    ),
    "peft-internal-testing/tiny-random-RobertaForSequenceClassification": lambda: tf.RobertaForSequenceClassification(
        tf.RobertaConfig(**_ENCODER)
    ),
}
"""Builders by name on the Hub. A model of the suite that is not here is left out."""


ADAPTER = "peft-internal-testing/tiny-opt-lora-revision"


def save_tiny_hub(folder: Path) -> Path:
    """Save every model, with a tokenizer, and a LoRA's config under its name on the Hub."""
    LoraConfig(base_model_name_or_path="peft-internal-testing/opt-125m").save_pretrained(str(folder / ADAPTER))
    for name, build in MODELS.items():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = build()
        model.save_pretrained(folder / name)
        tiny_tokenizer().save_pretrained(folder / name)
    return folder
