"""A GGUF file asked through llama.cpp, by its bindings `xllamacpp`: on the CPU, greedily, one prompt at a time.

llama.cpp runs as a server inside this process. It is given tokens, not text, so what is compared
is the model; its tokenizer is compared by itself.
"""

import gc
import json
import urllib.error
import urllib.request
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

INSTALL = "pip install 'secura[llama-cpp]'"
_SECONDS = 600
"""How long an answer may take: on one thread a large model reads a prompt for minutes."""


def llama_cpp_is_installed() -> bool:
    """Whether xllamacpp can be imported."""
    return find_spec("xllamacpp") is not None


@dataclass(frozen=True, kw_only=True)
class LlamaCppSettings:
    """What llama.cpp loads."""

    model: Path
    """A GGUF file."""
    lora: Path | None = None
    """A LoRA in GGUF for it."""
    context: int = 1024
    """Tokens that are read at once."""
    threads: int = 1
    """Threads that compute."""


class LlamaCpp:
    """One loaded file. Use it in a `with` block, which frees it."""

    def __init__(self, settings: LlamaCppSettings) -> None:
        if not llama_cpp_is_installed():
            raise ConfigError(f"GGUF files are asked through xllamacpp, which is not installed; run {INSTALL}.")
        xllamacpp: Any = import_module("xllamacpp")

        params = xllamacpp.CommonParams()
        params.model.path = str(settings.model)
        params.n_ctx = settings.context
        params.n_parallel = 1
        params.n_gpu_layers = 0
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings.threads
        params.warmup = False
        params.verbosity = 0
        # Its defaults hold keys and values in 16 bits, and would be taken for an error of the export.
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        if settings.lora is not None:
            params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(settings.lora), 1.0)]
        try:
            self._server: Any = xllamacpp.Server(params)
        except RuntimeError as problem:
            reason = " ".join(str(problem).split())[:200]
            raise ConfigError(f"llama.cpp cannot load {settings.model}: {reason}") from problem

    def __enter__(self) -> "LlamaCpp":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server = None
        gc.collect()

    def answer(self, prompt: Sequence[int], path: Sequence[int] | None, *, max_tokens: int, shown: int) -> Answered:
        """Continue a prompt greedily.

        Args:
            prompt: its tokens.
            path: what another model has answered; distributions are given for as long as both agree.
            max_tokens: where the answer is cut.
            shown: tokens of each distribution, the likeliest.
        """
        tokens, steps = self._continue(prompt, max_tokens, shown)
        followed = tokens if path is None else list(path)
        alike = next((at for at, (a, b) in enumerate(zip(tokens, followed, strict=False)) if a != b), len(tokens))
        if len(steps) < len(tokens):
            # It shows no token that is part of a character alone, and does not say which it left out.
            prefixes = ([*prompt, *followed[:at]] for at in range(min(alike + 1, len(tokens))))
            alone = [self._continue(prefix, 1, shown)[1] for prefix in prefixes]
            return Answered(tokens=tokens, distributions=[_distribution(one[0]) if one else None for one in alone])
        return Answered(tokens=tokens, distributions=[_distribution(step) for step in steps[: alike + 1]])

    def _continue(self, prompt: Sequence[int], max_tokens: int, shown: int) -> tuple[list[int], list[dict[str, Any]]]:
        """Greedy tokens, and what else was likely at each of those that are whole characters."""
        given = self._post(
            "/completion",
            {
                "prompt": list(prompt),
                "n_predict": max_tokens,
                "samplers": ["top_k"],
                "top_k": 1,
                "n_probs": shown,
                "return_tokens": True,
                "cache_prompt": False,  # what is left of other prompts has moved a distribution by 0.7 nats
            },
        )
        return [int(token) for token in given["tokens"]], given.get("completion_probabilities", [])

    def tokens_of(self, text: str) -> list[int]:
        """Tokens of a text as llama.cpp reads it, special tokens in it as such, none put around it."""
        asked = {"content": text, "add_special": False, "parse_special": True}
        return [int(token) for token in self._post("/tokenize", asked)["tokens"]]

    def templated(self, messages: Sequence[dict[str, str]]) -> str:
        """A chat as the file's own template writes it, ready for an answer."""
        return str(self._post("/apply-template", {"messages": list(messages)})["prompt"])

    def _post(self, path: str, content: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(
            self._server.listening_address + path,
            data=json.dumps(content).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as problem:
            raise ConfigError(f"llama.cpp cannot answer: {problem.read().decode()[:200]}") from problem


def _distribution(step: dict[str, Any]) -> Distribution:
    shown = [one for one in step["top_logprobs"] if one["logprob"] is not None]
    return Distribution(
        tokens=torch.tensor([one["id"] for one in shown]),
        log_probs=torch.tensor([float(one["logprob"]) for one in shown], dtype=torch.float64),
    )
