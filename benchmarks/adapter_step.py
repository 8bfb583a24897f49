"""Times a training step of SECURA beside PEFT's LoRA and DoRA, on the same modules.

One decoder layer of Llama's shape, width 1024, 2,048 tokens a step, query and value projections
adapted, float32. All methods live in one process and take turns, step by step, so that a drift of
the machine's speed meets all of them alike; what counts is the ratio to LoRA's step, pair by pair.
Peak memory is measured for each method alone, in a process of its own.

    python benchmarks/adapter_step.py [--steps 7] [--width 1024] [--tokens 2048] [--layers 1]
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import resource
import statistics
import time
from collections.abc import Callable

import peft
import torch
from peft import LoraConfig, PeftConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig

from secura import SecuraConfig

METHODS: dict[str, Callable[[], PeftConfig]] = {
    "lora": lambda: LoraConfig(r=16, target_modules=["q_proj", "v_proj"]),
    "dora": lambda: LoraConfig(r=16, use_dora=True, target_modules=["q_proj", "v_proj"]),
    "cabr, none": lambda: SecuraConfig(norm="none", r=16, inner_r=64),
    "cabr, bounded": lambda: SecuraConfig(norm="bounded", r=16, inner_r=64),
    "cabr, paper": lambda: SecuraConfig(norm="paper", r=16, inner_r=64),
    "low_rank, none": lambda: SecuraConfig(change="low_rank", norm="none", r=16),
    "low_rank, bounded": lambda: SecuraConfig(change="low_rank", norm="bounded", r=16),
}


def training_step(
    method: str, width: int, tokens: int, layers: int, device: str, dtype: torch.dtype
) -> Callable[[], None]:
    """A function that runs one forward, backward and optimizer step of a method."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        vocab_size=256,
    )
    with torch.device(device):
        base = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model = get_peft_model(base, METHODS[method]())
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-3)
    batch = torch.randint(0, 256, (tokens // 256, 256), device=device)

    def step() -> None:
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def peak_mebibytes(method: str, width: int, tokens: int, layers: int, device: str, dtype: torch.dtype) -> float:
    """Peak memory of three steps, less what the process held when the model was ready."""
    step = training_step(method, width, tokens, layers, device, dtype)
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        for _ in range(3):
            step()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(3):
        step()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shape = (options.width, options.tokens, options.layers, device, getattr(torch, options.dtype))
    name = (
        torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()}, {torch.get_num_threads()} threads"
    )
    print(f"{device} ({name}), torch {torch.__version__}, peft {peft.__version__}, {options.dtype}")
    print(
        f"width {options.width}, {options.tokens} tokens a step, {options.layers} layer(s), {options.steps} steps each"
    )

    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        memory = {method: pool.apply(peak_mebibytes, (method, *shape)) for method in METHODS}

    steps = {method: training_step(method, *shape) for method in METHODS}
    seconds: dict[str, list[float]] = {method: [] for method in METHODS}
    for turn in range(-2, options.steps):  # two turns of warm-up
        for method, step in steps.items():
            start = time.perf_counter()
            step()
            if turn >= 0:
                seconds[method].append(time.perf_counter() - start)

    print(f"\n{'method':20}{'median s':>10}{'ratio to LoRA (min, median, max)':>36}{'peak MiB':>10}")
    for method, taken in seconds.items():
        ratios = sorted(own / lora for own, lora in zip(taken, seconds["lora"], strict=True))
        spread = f"{ratios[0]:.2f}, {statistics.median(ratios):.2f}, {ratios[-1]:.2f}"
        print(f"{method:20}{statistics.median(taken):>10.3f}{spread:>36}{memory[method]:>10.0f}")


if __name__ == "__main__":
    main()
