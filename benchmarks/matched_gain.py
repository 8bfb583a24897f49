"""Knowledge kept where each method has learned as much as 80 % and 90 % of what LoRA learns.

Two methods that end at different gains cannot be compared by what they forgot. Here each is asked
every ten steps of one run, and what it knows is read off where its curve first reaches the same gain,
linearly between the two questionings around it. A method that never gets there shows as such.

    python benchmarks/matched_gain.py [--task NAME] [--seeds 0 1 2] [--workers 2] [--results FOLDER]
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from scipy.stats import t as students_t
from transformers import TrainerCallback

EVERY_STEPS = 10
SHARES = (0.8, 0.9)
PLAIN = {"method.adapter.scale": "plain"}
"""The form that the rates were chosen for."""
CONTENDERS: dict[str, dict[str, Any]] = {
    "LoRA": {"method.name": "lora"},
    "DoRA": {"method.name": "dora"},
    "MiCA": {"method.name": "mica"},
    "CorDA": {"method.name": "corda"},
    "OSF": {"method.name": "osf", "training.learning_rate": 1e-3},
    "full": {"method.name": "full"},
    "CUR-LoRA": {**PLAIN, "method.name": "cur-lora", "training.learning_rate": 3e-3},
    "CABR": {**PLAIN, "method.name": "cabr-lora", "training.learning_rate": 1e-3},
    "SECURA M1, as published": {**PLAIN, "method.name": "secura-paper", "training.learning_rate": 3e-3},
    "SECURA M1, as published, at 1e-2": {**PLAIN, "method.name": "secura-paper", "training.learning_rate": 1e-2},
    "SECURA M2, paper, at 3e-3": {
        **PLAIN,
        "method.name": "cabr-lora",
        "method.adapter.norm": "paper",
        "training.learning_rate": 3e-3,
    },
    "SECURA, bounded, q and v": {
        **PLAIN,
        "method.name": "secura",
        "method.adapter.target_modules": ["q_proj", "v_proj"],
        "method.adapter.tau": 0.3,
        "training.learning_rate": 3e-2,
    },
    "SECURA, bounded": {**PLAIN, "method.name": "secura", "training.learning_rate": 1e-2},
    "bounded LoRA": {**PLAIN, "method.name": "bounded-lora", "training.learning_rate": 3e-3},
    "LoRA, all linear": {
        "method.name": "lora",
        "method.adapter.target_modules": "all-linear",
        "training.learning_rate": 5e-4,
    },
}


def learn(name: str, task: str, seed: int, results: Path) -> None:
    """One run, questioned as it goes; its curve becomes one small file."""
    from secura.evaluation.merged import merged_for_scoring
    from secura.evaluation.provenance import provenance
    from secura.evaluation.scoring import score_questions
    from secura.experiments.run.prepare import prepare_run
    from secura.experiments.run.questions import matchable
    from secura.experiments.run.train import learn as learn_run
    from secura.experiments.settings.layers import load_config

    with tempfile.TemporaryDirectory() as place:
        flags = {**CONTENDERS[name], "data.path": task, "training.seed": seed, "out": f"{place}/run"}
        run = prepare_run(load_config(None, [], flags))
        test, _ = matchable(run.tokenizer, run.task.test, 64)
        knowledge, _ = matchable(run.tokenizer, run.retention, 64)
        curve: list[dict[str, float]] = []

        def ask(step: int) -> None:
            training = run.model.training
            run.model.eval()
            with merged_for_scoring(run.model):
                shares = [
                    sum(answer.correct for answer in score_questions(run.model, run.tokenizer, asked)) / len(asked)
                    for asked in (test, knowledge)
                ]
            run.model.train(training)
            curve.append({"step": step, "learned": shares[0], "known": shares[1]})

        class AskAsItGoes(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                if state.global_step % EVERY_STEPS == 0:
                    ask(state.global_step)

        ask(0)
        learn_run(run, Console(file=io.StringIO()), [AskAsItGoes()])
        stored = {"name": name, "task": task, "seed": seed, "curve": curve, "settings": run.config.model_dump()}
        stored |= {"trainable_weights": run.trainable_weights, "provenance": provenance()}
    results.mkdir(parents=True, exist_ok=True)
    partial = file_of(name, task, seed, results).with_suffix(".partial")
    partial.write_text(json.dumps(stored, indent=1) + "\n")
    os.replace(partial, file_of(name, task, seed, results))


def file_of(name: str, task: str, seed: int, results: Path) -> Path:
    return results / f"{''.join(letter if letter.isalnum() else '_' for letter in name)}-{task}-{seed}.json"


def kept_at(curve: Sequence[dict[str, float]], gain: float) -> float | None:
    """Knowledge as a share of the base's, where the curve first reaches a gain; None if it never does."""
    base = curve[0]["known"]
    for before, after in itertools.pairwise(curve):
        if after["learned"] >= gain:
            rise = after["learned"] - before["learned"]
            part = (gain - before["learned"]) / rise if rise > 0 else 1.0
            return (before["known"] + part * (after["known"] - before["known"])) / base
    return None


def shown(shares: Sequence[float | None]) -> str:
    reached = [share for share in shares if share is not None]
    if not reached:
        return "not reached"
    missing = f", {len(shares) - len(reached)} of {len(shares)} not reached" if len(reached) < len(shares) else ""
    mean = 100 * statistics.mean(reached)
    if len(reached) < 2:
        return f"{mean:.1f}{missing}"
    half = 100 * float(students_t.ppf(0.975, len(reached) - 1)) * statistics.stdev(reached) / len(reached) ** 0.5
    return f"{mean:.1f} ± {half:.1f}{missing}"


def table(results: Path, task: str, seeds: Sequence[int], names: Sequence[str]) -> str:
    runs = {name: [json.loads(file_of(name, task, seed, results).read_text()) for seed in seeds] for name in names}
    lora = [json.loads(file_of("LoRA", task, seed, results).read_text())["curve"][-1]["learned"] for seed in seeds]
    lines = ["| method | trained weights | learned at the end, % | kept at the end, % | at 80 % | at 90 % |"]
    lines.append("|---|---|---|---|---|---|")
    for name, own in runs.items():
        curves = [one["curve"] for one in own]
        cells = [
            name,
            f"{own[0]['trainable_weights']:,}",
            shown([curve[-1]["learned"] for curve in curves]),
            shown([curve[-1]["known"] / curve[0]["known"] for curve in curves]),
        ]
        for share in SHARES:
            cells.append(shown([kept_at(curve, share * most) for curve, most in zip(curves, lora, strict=True)]))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="ask_in_ulvish")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "matched_gain")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--one", nargs=2, metavar=("NAME", "SEED"), help="carry out one run; used by the others")
    arguments = parser.parse_args()
    if arguments.one:
        learn(arguments.one[0], arguments.task, int(arguments.one[1]), arguments.results)
        return

    def start(cell: tuple[str, int]) -> None:
        name, seed = cell
        if not file_of(name, arguments.task, seed, arguments.results).exists():
            command = [sys.executable, __file__, "--one", name, str(seed), "--task", arguments.task]
            command += ["--results", str(arguments.results)]
            subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
            print(f"{name}, seed {seed}", file=sys.stderr)

    with ThreadPoolExecutor(arguments.workers) as pool:
        list(pool.map(start, [(name, seed) for seed in arguments.seeds for name in arguments.only]))
    print(table(arguments.results, arguments.task, arguments.seeds, arguments.only))


if __name__ == "__main__":
    main()
