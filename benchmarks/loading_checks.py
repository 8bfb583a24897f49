"""What the checks at load cost: the seal of an adapter, and the sample that recognises its whole base.

A Llama of SmolLM2's shape with random weights in bfloat16 is written to a temporary folder with an adapter on every
linear layer, and both are loaded, after one load that warms the file cache up. Each check is timed from within, in
seconds of the process, which a busy machine does not lengthen.

    python benchmarks/loading_checks.py [--layers 30] [--width 576] [--repeats 5]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig

from secura import SecuraConfig
from secura.adapters.fingerprint import WeightDigests
from secura.adapters.secura import config
from secura.adapters.secura import model as tuner

SEAL = (
    (config, "check_saved"),
    (tuner, "check_config_seal"),
    (tuner.SecuraModel, "_check_seal"),
    (tuner.LookAtFirstUse, "put_on"),
    (tuner.LookAtFirstUse, "take_off"),
)
"""All that looks at what was saved: the form of the config, digests, values that are not finite, keys not its own."""
BASE = ((tuner, "base_sample"), (tuner, "fingerprints_agree"))


def main() -> None:
    """Print the median of each part, and its share of loading."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        base, adapter = Path(place) / "base", Path(place) / "adapter"
        write(base, adapter, given.layers, given.width)
        runs = [load(base, adapter) for _ in range(1 + given.repeats)][1:]
    whole = statistics.median(run["loading"] for run in runs)
    print(f"loading base and adapter: {whole:.2f} s")
    for part in ("seal", "sample of the base", "all fingerprints"):
        median = statistics.median(run[part] for run in runs)
        print(f"{part}: {1000 * median:.1f} ms, {median / whole:.2%}")


def write(base: Path, adapter: Path, layers: int, width: int) -> None:
    """A model and an adapter of every linear layer of it."""
    torch.manual_seed(0)
    shape = LlamaConfig(
        hidden_size=width,
        intermediate_size=8 * width // 3,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=max(1, width // 192),
        vocab_size=49152,
        tie_word_embeddings=True,
    )
    model = AutoModelForCausalLM.from_config(shape, dtype=torch.bfloat16)
    model.save_pretrained(base)
    get_peft_model(model, SecuraConfig.preset("secura")).save_pretrained(str(adapter))


def load(base: Path, adapter: Path) -> dict[str, float]:
    """Seconds of the process for a load, and for the checks in it."""
    spent: dict[str, float] = defaultdict(float)

    def timed(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **settings: Any) -> Any:
            began = time.process_time()
            try:
                return function(*arguments, **settings)
            finally:
                spent[part] += time.process_time() - began

        return call

    patches = [mock.patch.object(of, name, timed("seal", getattr(of, name))) for of, name in SEAL]
    patches += [mock.patch.object(of, name, timed("sample of the base", getattr(of, name))) for of, name in BASE]
    patches += [
        mock.patch.object(WeightDigests, "match", timed("all fingerprints", WeightDigests.match)),
    ]
    began = time.process_time()
    for patch in patches:
        patch.start()
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    PeftModel.from_pretrained(model, str(adapter))
    spent["loading"] = time.process_time() - began
    for patch in patches:
        patch.stop()
    return spent


if __name__ == "__main__":
    main()
