"""Small models under a SECURA adapter, and a stand-in for what training does to it."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from secura import ConfigError, SecuraConfig
from secura.adapters.secura import SecuraLayer

VOCABULARY = 64
ModuleT = TypeVar("ModuleT", bound=nn.Module)


class TwoLinears(nn.Module):
    """A linear layer with a bias, and one without, of odd shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(33, 17)
        self.second = nn.Linear(17, 24, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


class OneConv1D(nn.Module):
    """GPT-2's linear layer, which stores its weight as (in, out)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Conv1D(17, 33)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x)


def two_linears(seed: int = 0, dtype: torch.dtype = torch.float32) -> TwoLinears:
    return drawn(TwoLinears(), seed).to(dtype)


def one_conv1d(seed: int = 0, dtype: torch.dtype = torch.float32) -> OneConv1D:
    return drawn(OneConv1D(), seed).to(dtype)


def llama(
    seed: int = 0, *, layers: int = 2, width: int = 32, between: int = 48, dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=between,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    return drawn(LlamaForCausalLM(config), seed).to(dtype)


def gpt2(seed: int = 0, *, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    config = GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=None, eos_token_id=None
    )
    return drawn(GPT2LMHeadModel(config), seed).to(dtype)


def drawn(module: ModuleT, seed: int) -> ModuleT:
    """Weights of std 0.2 (norms stay as they are): large enough for an adapter to be seen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "norm" not in name and ".ln_" not in name:
                parameter.normal_(std=0.2, generator=generator)
    return module.eval()


def inputs(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
    return torch.randn(*(shape or (5, 33)), generator=torch.Generator().manual_seed(seed)).to(dtype)


def tokens(rows: int = 3, length: int = 7, seed: int = 1) -> Tensor:
    return torch.randint(1, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


def small_config(**settings: Any) -> SecuraConfig:
    """Rank 4, inner rank 6; for `TwoLinears` and `OneConv1D` unless target_modules say otherwise."""
    return SecuraConfig(**{"r": 4, "inner_r": 6, "target_modules": ["first", "second"], **settings})


def llama_config(**settings: Any) -> SecuraConfig:
    """Rank 4, inner rank 6, on query and value projections, as PEFT chooses them by the kind of model."""
    return SecuraConfig(**{"r": 4, "inner_r": 6, "target_modules": None, "task_type": "CAUSAL_LM", **settings})


def adapted(base: Any, config: SecuraConfig, *, seed: int | None = 2, **arguments: Any) -> PeftModel:
    """The base under an adapter, moved as training would move it unless `seed` is None."""
    with torch.random.fork_rng():
        torch.manual_seed(0)  # some starts are drawn from PyTorch's own generator
        model = get_peft_model(base, config, **arguments)
    assert isinstance(model, PeftModel)
    return (model if seed is None else moved(model, seed)).eval()


def moved(model: PeftModel, seed: int = 2, adapter_name: str = "default") -> PeftModel:
    """Every trained factor of an adapter moved at random, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if f"secura_change.{adapter_name}." in name:
                step = torch.randn(parameter.shape, generator=generator)
                parameter.add_((0.15 * step).to(parameter.dtype))
    return model


def secura_layers(model: nn.Module) -> Iterator[SecuraLayer]:
    return (module for module in model.modules() if isinstance(module, SecuraLayer))


def first_layer(model: nn.Module) -> Any:
    return next(secura_layers(model))


def logits(model: Any, ids: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        return model(tokens() if ids is None else ids).logits


def outputs(model: Any, x: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        return model(inputs() if x is None else x)


def saved_adapter(model: Any, folder: Path, **arguments: Any) -> Path:
    model.save_pretrained(folder, **arguments)
    return folder


def combinations() -> list[dict[str, str]]:
    """Every change, norm, reference and fold that a config accepts together."""
    accepted = []
    for change, norm, reference, fold in itertools.product(
        ["cabr", "cur", "low_rank"],
        ["none", "paper", "released", "bounded", "row_bounded"],
        ["fixed", "moving"],
        ["keep", "undamped"],
    ):
        choice = {"change": change, "norm": norm, "reference": reference, "fold": fold}
        try:
            SecuraConfig(**choice)  # type: ignore[arg-type]
        except ConfigError:
            continue
        accepted.append(choice)
    return accepted


def crossed(choices: list[dict[str, str]]) -> pytest.MarkDecorator:
    """A test over all `choices`: by default as many as hold every pair of two settings, the others marked slow."""
    covering = pairwise(choices)
    return pytest.mark.parametrize(
        "choice",
        [
            pytest.param(choice, id="-".join(choice.values()), marks=() if choice in covering else pytest.mark.slow)
            for choice in choices
        ],
    )


def pairwise(choices: list[dict[str, str]]) -> list[dict[str, str]]:
    """A few of `choices` that hold every pair of two settings that any of them holds, chosen greedily."""
    pairs = {str(choice): set(itertools.combinations(choice.items(), 2)) for choice in choices}
    missing, covering = set().union(*pairs.values()), []
    while missing:
        best = max(choices, key=lambda choice: len(pairs[str(choice)] & missing))
        covering.append(best)
        missing -= pairs[str(best)]
    return covering


COMBINATIONS = combinations()
WEIGHT_SPACE = [choice for choice in COMBINATIONS if choice["norm"] != "released"]
