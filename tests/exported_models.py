"""Small models of each architecture that llama.cpp knows, under an adapter that is large enough to be seen."""

import random
from typing import Any

import torch
from adapted_models import adapted, drawn
from peft import PeftModel
from tiny_models import ARCHITECTURES, tiny_tokenizer
from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedModel

from secura import SecuraConfig

DTYPES = (torch.float32, torch.bfloat16)
_CONV1D = ["c_attn", "c_fc", "c_proj"]
_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "down_proj"]


def base_of(architecture: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A model with random weights, the same each time."""
    tokenizer = tiny_tokenizer()
    if architecture == "gemma2":
        # llama.cpp scales attention by the head's width, whatever a config says.
        config = Gemma2Config(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            head_dim=8,
            sliding_window=32,
            query_pre_attn_scalar=8,
        )
        model: Any = Gemma2ForCausalLM(config)
    else:
        model = ARCHITECTURES[architecture](len(tokenizer))
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.config.bos_token_id = model.generation_config.bos_token_id = None
    for parameter in drawn(model, 0).parameters():  # not `to`, which would round the rotary frequencies as well
        parameter.data = parameter.data.to(dtype)
    return model


def targets_of(architecture: str) -> list[str]:
    return _CONV1D if architecture == "gpt2" else _LINEAR


def tuned(architecture: str, dtype: torch.dtype = torch.float32, **settings: Any) -> PeftModel:
    """The same model under an adapter of rank 4 that has moved."""
    chosen = {"r": 4, "target_modules": targets_of(architecture), "task_type": "CAUSAL_LM", **settings}
    return adapted(base_of(architecture, dtype), SecuraConfig(**chosen))


def prompts(count: int) -> list[list[int]]:
    draw = random.Random(0)
    return [[draw.randrange(6, 290) for _ in range(draw.randrange(2, 10))] for _ in range(count)]
