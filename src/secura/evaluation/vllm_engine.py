"""A LoRA or a merged model asked through vLLM, where it is installed: greedily, by tokens.

vLLM runs inside this process, computes eagerly, and takes four fifths of the memory of a GPU that is free. Its kernels
sum in another order than PyTorch's, so its tokens are not required to be the same; its divergence is bounded.
"""

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from secura.errors import ConfigError
from secura.evaluation.parity import Answered, Distribution

_FREE_SHARE = 0.8


def vllm_is_installed() -> bool:
    """Whether vllm can be imported."""
    return find_spec("vllm") is not None


@dataclass(frozen=True, kw_only=True)
class VllmSettings:
    """What vLLM loads."""

    model: str
    """Folder or hub id of a whole model."""
    lora: Path | None = None
    """Folder of a LoRA on it."""
    lora_rank: int = 8
    """The LoRA's rank, one of those that vLLM serves."""
    dtype: str = "auto"
    """What it computes in; auto is as the weights are stored."""
    context: int = 1024
    """Tokens that are read at once."""
    shown: int = 512
    """Tokens of each distribution, the likeliest."""


class Vllm:
    """One loaded model. Use it in a `with` block, which frees it."""

    def __init__(self, settings: VllmSettings) -> None:
        vllm: Any = import_module("vllm")
        self._sampling_params = vllm.SamplingParams
        self._shown = settings.shown
        of_lora: dict[str, Any] = {}
        self._lora: Any = None
        if settings.lora is not None:
            request: Any = import_module("vllm.lora.request")
            self._lora = request.LoRARequest("export", 1, str(settings.lora))
            of_lora = {"enable_lora": True, "max_lora_rank": settings.lora_rank}
        try:
            self._llm: Any = vllm.LLM(
                model=settings.model,
                dtype=settings.dtype,
                max_model_len=settings.context,
                max_logprobs=settings.shown,
                enforce_eager=True,
                enable_prefix_caching=False,
                gpu_memory_utilization=_share_of_memory(),
                seed=0,
                **of_lora,
            )
        except (ValueError, RuntimeError, OSError, ImportError) as problem:
            reason = " ".join(str(problem).split())[:200]
            raise ConfigError(f"vLLM cannot load the export: {reason}; --no-vllm skips it.") from problem

    def __enter__(self) -> "Vllm":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._llm = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def answer(
        self, prompt: Sequence[int], path: Sequence[int] | None, *, max_tokens: int, ends: Sequence[int]
    ) -> Answered:
        """Continue a prompt greedily.

        Args:
            prompt: its tokens.
            path: what another model has answered; distributions are given for as long as both agree.
            max_tokens: where the answer is cut.
            ends: tokens that end it.
        """
        wanted = self._sampling_params(
            temperature=0.0,
            max_tokens=max_tokens,
            logprobs=self._shown,
            stop_token_ids=list(ends),
            detokenize=False,
        )
        given = self._llm.generate(
            [{"prompt_token_ids": list(prompt)}], wanted, lora_request=self._lora, use_tqdm=False
        )[0].outputs[0]
        tokens = [int(token) for token in given.token_ids]
        followed = tokens if path is None else list(path)
        alike = next((at for at, (a, b) in enumerate(zip(tokens, followed, strict=False)) if a != b), len(tokens))
        return Answered(tokens=tokens, distributions=[_distribution(step) for step in given.logprobs[: alike + 1]])


def _distribution(step: dict[int, Any]) -> Distribution:
    return Distribution(
        tokens=torch.tensor(list(step)),
        log_probs=torch.tensor([float(each.logprob) for each in step.values()], dtype=torch.float64),
    )


def _share_of_memory() -> float:
    """Of all memory of the GPU, what vLLM may take: a part of what is free."""
    if not torch.cuda.is_available():
        return _FREE_SHARE
    free, whole = torch.cuda.mem_get_info()
    return round(_FREE_SHARE * free / whole, 3)
