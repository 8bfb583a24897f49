"""What SECURA costs beside LoRA: a training step, its memory, and starting, merging, saving, loading and generating.

All methods live in one process, on the same modules of the same base, and take turns, so that a drift of the machine's
speed meets all of them alike. What counts is the ratio to LoRA's time of the same turn; a range stands beside it.

    python benchmarks/adapter_step.py                      minutes on two cores: float32, width 1024, 2,048 tokens
    python benchmarks/adapter_step.py --preset tokens      256 to 8,192 tokens a step
    python benchmarks/adapter_step.py --preset all         every method
    python benchmarks/adapter_step.py --device cuda        under ten minutes on one GPU: real shapes, both precisions

Each prints a table and writes one JSON with the hardware, the versions, the configuration and every single time
(`--out`). A model is some decoder layers of Llama's shape with a small vocabulary, with random weights.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, OFTConfig, OSFConfig, PeftConfig, PeftModel, get_peft_model
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig

from secura import SecuraConfig
from secura.adapters.secura.layer import SecuraLayer
from secura.evaluation.merged import merged_for_scoring
from secura.evaluation.provenance import provenance
from secura.kernels.fused_norm import fused_norm

RANK = 16
MODULES = {"all-linear": ["q", "k", "v", "o", "gate", "up", "down"], "query and value": ["q", "v"]}
METHODS: dict[str, Callable[[list[str]], PeftConfig | None]] = {
    "lora": lambda names: LoraConfig(r=RANK, target_modules=names),
    "none": lambda names: SecuraConfig(norm="none", r=RANK, target_modules=names),
    "row_bounded": lambda names: SecuraConfig(norm="row_bounded", r=RANK, target_modules=names),
    "low_rank row_bounded": lambda names: SecuraConfig(
        change="low_rank", norm="row_bounded", r=RANK, target_modules=names
    ),
    "bounded": lambda names: SecuraConfig(norm="bounded", r=RANK, target_modules=names),
    "low_rank bounded": lambda names: SecuraConfig(change="low_rank", norm="bounded", r=RANK, target_modules=names),
    "paper": lambda names: SecuraConfig(norm="paper", r=RANK, target_modules=names),
    "released": lambda names: SecuraConfig(norm="released", r=RANK, target_modules=names),
    "cur-lora": lambda names: SecuraConfig.preset("cur-lora", r=RANK, target_modules=names),
    "dora": lambda names: LoraConfig(r=RANK, use_dora=True, target_modules=names),
    "oft": lambda names: OFTConfig(oft_block_size=32, target_modules=names),
    "osf": lambda names: OSFConfig(target_modules=names),
    "full": lambda names: None,
}
FEW = ["lora", "none", "row_bounded", "bounded"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What one comparison is made on."""

    width: int = 1024
    depth: int = 1
    tokens: int = 2048
    modules: str = "all-linear"
    dtype: str = "float32"
    autocast: bool = False
    """Whether products are in bfloat16 under autocast."""
    checkpointing: bool = False
    methods: tuple[str, ...] = tuple(FEW)
    rounds: int = 5


def cells_of(preset: str, device: str) -> list[Cell]:
    """The comparisons of a preset."""
    many = tuple(name for name in METHODS if name not in ("osf", "oft", "full", "released"))
    cell = Cell(methods=many)
    if device == "cuda":
        large = Cell(width=4096, tokens=4096, methods=many, rounds=20, dtype="bfloat16")
        return [
            replace(cell, rounds=20),
            large,
            replace(large, modules="query and value"),
            replace(large, tokens=1024),
            replace(large, tokens=16_384),
            replace(large, dtype="float32", autocast=True),
            replace(large, width=1536, depth=4, methods=tuple(METHODS), rounds=10),
        ]
    return {
        "quick": [
            replace(cell, methods=("lora", "none", "row_bounded", "low_rank row_bounded", "bounded", "dora")),
            replace(cell, modules="query and value", methods=tuple(FEW)),
        ],
        "tokens": [
            replace(cell, width=512, tokens=tokens, methods=tuple(FEW), rounds=7) for tokens in (256, 1024, 2048, 8192)
        ],
        "precision": [
            replace(cell, modules=modules, methods=tuple(FEW), rounds=7, **precision)
            for precision in ({"dtype": "bfloat16"}, {"autocast": True})
            for modules in MODULES
        ],
        "all": [replace(cell, width=512, methods=tuple(METHODS))],
    }[preset]


# ------------------------------------------------------------------ a step


def model_of(method: str, cell: Cell, device: str) -> nn.Module:
    """A base and its adapter, from the same random numbers for each method."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=cell.width,
        intermediate_size=4 * cell.width,
        num_hidden_layers=cell.depth,
        num_attention_heads=cell.width // 64,
        vocab_size=256,
    )
    with torch.device(device):
        base = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, cell.dtype))
    adapter = METHODS[method]([f"{name}_proj" for name in MODULES[cell.modules]])
    model = base if adapter is None else get_peft_model(base, adapter)
    if cell.checkpointing:
        base.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train()


def form_of(model: nn.Module) -> str | None:
    """Whether a norm on each weight takes a GPU's kernels or torch's operations; None where there is no such norm."""
    for layer in model.modules():
        if isinstance(layer, SecuraLayer) and (norm := layer.secura_settings["default"].weight_norm) is not None:
            weight: Any = layer.get_base_layer().weight
            return "torch" if fused_norm(norm, weight) is None else "kernels"
    return None


def step_of(method: str, cell: Cell, device: str) -> Callable[[], None]:
    """A function that runs one forward, backward and optimizer step."""
    model = model_of(method, cell, device)
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-4)
    batch = torch.randint(0, 256, (max(1, cell.tokens // 256), min(256, cell.tokens)), device=device)

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=cell.autocast):
            loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def timed(work: Callable[[], Any], device: str) -> float:
    """Seconds on the wall, what a GPU still has to do included."""
    if device == "cuda":
        torch.cuda.synchronize()
    begun = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def peak_mebibytes(method: str, cell: Cell, device: str) -> float:
    """Peak memory of three steps beyond what the model itself takes."""
    if device == "cuda":
        step = step_of(method, cell, device)
        step()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        for _ in range(2):
            step()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    step = step_of(method, cell, device)
    gc.collect()
    # A process's own highest mark would be that of making the model, and getrusage's that of its parent.
    Path("/proc/self/clear_refs").write_text("5")
    before = resident_kibibytes("VmRSS")
    for _ in range(3):
        step()
    return (resident_kibibytes("VmHWM") - before) / 2**10


def resident_kibibytes(which: str) -> int:
    """What Linux says of this process's memory: now (VmRSS), or at most since its mark was reset (VmHWM)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{which}:"))


def memory_of(cell: Cell, device: str) -> dict[str, float]:
    """By method; on a CPU each in a process of its own, since a process never gives back its peak."""
    if device == "cuda":
        found = {}
        for method in cell.methods:
            found[method] = peak_mebibytes(method, cell, device)
            gc.collect()
            torch.cuda.empty_cache()
        return found
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return {method: pool.apply(peak_mebibytes, (method, cell, device)) for method in cell.methods}


def compare_steps(cell: Cell, device: str) -> dict[str, Any]:
    """Times of every turn, by method, and memory; by which form of its norm each was computed."""
    forms = {method: form_of(model_of(method, replace(cell, width=64, depth=1), device)) for method in cell.methods}
    memory = memory_of(cell, device)
    steps = {method: step_of(method, cell, device) for method in cell.methods}
    seconds: dict[str, list[float]] = {method: [] for method in cell.methods}
    for turn in range(-2, cell.rounds):  # two turns of warm-up
        for method, step in steps.items():
            taken = timed(step, device)
            if turn >= 0:
                seconds[method].append(taken)
    del steps
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
    return {"cell": asdict(cell), "seconds": seconds, "peak_mebibytes": memory, "forms": forms}


# ------------------------------------------------------------------ beside training


def beside_training(device: str) -> dict[str, float]:
    """Seconds that an adapter takes to start, save, load, merge and generate, beside the base's own."""
    cell = Cell(width=4096 if device == "cuda" else 1024, depth=2, dtype="bfloat16" if device == "cuda" else "float32")
    names = [f"{name}_proj" for name in MODULES["all-linear"]]

    def base() -> Any:
        return model_of("full", cell, device).eval()

    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        whole = base()
        whole.save_pretrained(f"{folder}/base")
        ids = torch.randint(0, 256, (1, 16), device=device)
        found["base: load"] = timed(lambda: AutoModelForCausalLM.from_pretrained(f"{folder}/base"), device)
        whole.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0)
        found["base: 32 tokens"] = timed(
            lambda: whole.generate(ids, max_new_tokens=32, min_new_tokens=32, do_sample=False, pad_token_id=0), device
        )
        weight = whole.model.layers[0].mlp.up_proj.weight.detach().float()
        found["PiSSA's SVD of one weight"] = timed(lambda: torch.linalg.svd(weight, full_matrices=False), device)
        for norm in ("row_bounded", "bounded"):
            config = SecuraConfig(norm=norm, r=RANK, target_modules=names)
            made: list[Any] = []
            fresh = base()
            found[f"{norm}: start"] = timed(
                lambda fresh=fresh, config=config, made=made: made.append(get_peft_model(fresh, config)), device
            )
            model = made[0].eval()
            path = f"{folder}/{norm}"
            found[f"{norm}: save, fingerprints included"] = timed(
                lambda model=model, path=path: model.save_pretrained(path), device
            )
            bare = base()
            found[f"{norm}: load"] = timed(lambda bare=bare, path=path: PeftModel.from_pretrained(bare, path), device)

            def scored(model: Any = model) -> None:
                with merged_for_scoring(model):
                    pass

            found[f"{norm}: merge for scoring and take out"] = timed(scored, device)
            with merged_for_scoring(model):
                found[f"{norm}: 32 tokens, merged"] = timed(
                    lambda model=model: model.generate(
                        input_ids=ids, max_new_tokens=32, min_new_tokens=32, do_sample=False, pad_token_id=0
                    ),
                    device,
                )
    return found


# ------------------------------------------------------------------ showing


def table_of(result: dict[str, Any]) -> Table:
    cell = result["cell"]
    table = Table(
        title=f"width {cell['width']}, {cell['depth']} layer(s), {cell['modules']}, {cell['tokens']:,} tokens a step, "
        f"r = {RANK}, {cell['dtype']}{', bfloat16 autocast' if cell['autocast'] else ''}"
    )
    for heading in ("method", "norm by", "step, s", "ratio to LoRA: median (range)", "peak memory, MiB", "ratio"):
        table.add_column(heading, justify="left" if heading in ("method", "norm by") else "right")
    lora = result["seconds"]["lora"]
    for method, taken in result["seconds"].items():
        ratios = sorted(own / other for own, other in zip(taken, lora, strict=True))
        memory = result["peak_mebibytes"][method]
        table.add_row(
            method,
            result["forms"][method] or "",
            f"{statistics.median(taken):.4f}",
            f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
            f"{memory:.0f}",
            f"{memory / result['peak_mebibytes']['lora']:.2f}",
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="quick", choices=["quick", "tokens", "precision", "all"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, help="turns of each method")
    parser.add_argument("--out", type=Path, help="JSON with every single time")
    wanted = parser.parse_args()
    console = Console(width=120)
    cells = [
        cell if wanted.rounds is None else replace(cell, rounds=wanted.rounds)
        for cell in cells_of(wanted.preset, wanted.device)
    ]
    results: dict[str, Any] = {"provenance": provenance(), "device": wanted.device, "rank": RANK, "steps": []}
    for cell in cells:
        results["steps"].append(compare_steps(cell, wanted.device))
        console.print(table_of(results["steps"][-1]))
    results["beside_training_seconds"] = beside_training(wanted.device)
    for name, seconds in results["beside_training_seconds"].items():
        console.print(f"{name:45}{seconds:10.4f} s", highlight=False)
    console.print(results["provenance"], highlight=False)
    if wanted.out is not None:
        wanted.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
