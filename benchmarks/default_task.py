"""Every method on the bundled default task, each at several learning rates: the table in the README.

Runs `secura train` as a user would, once for each method, rate and seed, and prints one row for each
method and rate: the new task's accuracy, knowledge kept, and the spread over seeds. Finished runs are
not run again.

    python benchmarks/default_task.py [--out runs/default_task] [--seeds 0 1 2] [--workers 2]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import peft
import torch
import transformers

RATES: dict[str, Sequence[float]] = {
    "lora": (5e-4, 7e-4, 1e-3),
    "lora r=26": (5e-4, 7e-4, 1e-3),
    "lora target_modules=all-linear": (3e-4, 5e-4, 7e-4),
    "dora": (5e-4, 7e-4, 1e-3),
    "full": (3e-5, 5e-5, 1e-4),
    "cabr-lora": (1e-2, 3e-2, 1e-1),
    "cur-lora": (3e-2, 1e-1, 3e-1),
    "secura-paper": (1e-2, 3e-2, 1e-1),
    "secura": (1e-1, 1.5e-1, 2e-1),
    "bounded-lora": (3e-2, 1e-1, 3e-1),
}
"""Learning rates by method; a setting of the adapter may follow."""


def run_folder(out: Path, method: str, rate: float, seed: int) -> Path:
    return out / f"{method.replace(' ', '-')}-{rate:g}-{seed}"


def train(out: Path, method: str, rate: float, seed: int) -> None:
    """One run in a process of its own, on one core."""
    folder = run_folder(out, method, rate, seed)
    if (folder / "retention.json").exists():
        return
    name, _, setting = method.partition(" ")
    settings = [f"training.learning_rate={rate}", f"training.seed={seed}"]
    settings += [f"method.adapter.{setting}"] if setting else []
    command = [str(Path(sys.executable).with_name("secura")), "train", "--method", name, "--out", str(folder)]
    command += [part for setting in settings for part in ("--set", setting)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})


def row(out: Path, method: str, rate: float, seeds: Sequence[int]) -> str:
    """A line of the table: means over the seeds, and the least and the most."""
    reports = [json.loads((run_folder(out, method, rate, seed) / "retention.json").read_text()) for seed in seeds]
    learned = [report["new_task"]["total"]["right_after"] / report["new_task"]["total"]["asked"] for report in reports]
    kept = [report["retention"]["total"]["kept"] for report in reports]
    return f"| {method} | {reports[0]['trainable_weights']:,} | {rate:g} | {shown(learned)} | {shown(kept)} |"


def shown(shares: Sequence[float]) -> str:
    mean = statistics.mean(shares)
    return f"{100 * mean:.1f} ({100 * min(shares):.1f} to {100 * max(shares):.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/default_task"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    cells = [(method, rate) for method, rates in RATES.items() for rate in rates]
    with ThreadPoolExecutor(arguments.workers) as pool:
        runs = [pool.submit(train, arguments.out, *cell, seed) for cell in cells for seed in arguments.seeds]
        for done, run in enumerate(runs, start=1):
            run.result()
            print(f"{done} of {len(runs)} runs", file=sys.stderr)
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}")
    print(f"{platform.machine()} CPU, one thread a run, seeds {arguments.seeds}\n")
    print("| method | trained weights | rate | new task, % right: mean (range) | knowledge kept, %: mean (range) |")
    print("|---|---|---|---|---|")
    for cell in cells:
        print(row(arguments.out, *cell, arguments.seeds))


if __name__ == "__main__":
    main()
