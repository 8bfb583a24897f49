"""Sixteen tasks in sequence, every method: the table in docs/reproduction.md.

First each method's learning rate is chosen: three to five rates on a validation sequence of its own
(six tasks in another order, another seed), by one rule for all: the highest mean of average accuracy on
the tasks learned and of knowledge, both at the end. Where the best rate was the least or the greatest of
those tried, another one beyond it was tried. Then the sequence runs with that rate, over orders and seeds.
A run's scores go into one small JSON; finished runs are not run again, and an interrupted one goes on.

    python benchmarks/sixteen_tasks.py [--results benchmarks/results/sixteen_tasks] [--only NAME ...]
        [--runs 0:0 1:1 2:0 0:1 1:0 2:1] [--workers 2] [--rates-only] [--harsh] [--table]

A run is named seed:order. `--table` runs nothing and prints what is there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy.stats import t as students_t

from secura.evaluation.retention_metrics import average_accuracy, forgetting_best_minus_last
from secura.experiments.sequence.matrix import read_matrix
from secura.experiments.settings.names import CANNOT_FOLD

STEPS = 100
VALIDATION_ORDER, VALIDATION_SEED, VALIDATION_TASKS = 99, 99, 6
HARSH_RATE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Contender:
    settings: tuple[str, ...]
    rates: tuple[float, ...]


LORA = ("method.name=lora",)
QUERY_AND_VALUE = ("method.adapter.target_modules=[q_proj, v_proj]", "method.adapter.tau=0.3")
OWN_TEXT = ("strategy.name=own_text",)
MOVING_BOUNDED_LORA = (
    "method.name=bounded-lora",
    "method.adapter.target_modules=all-linear",
    "method.adapter.reference=moving",
    "method.adapter.tau=0.1",
)
CONTENDERS: dict[str, Contender] = {
    "SEQ, LoRA": Contender(settings=LORA, rates=(1e-4, 3e-4, 7e-4, 1e-3)),
    "ER": Contender(settings=(*LORA, "strategy.name=replay"), rates=(1e-4, 3e-4, 7e-4, 1e-3)),
    "EWC": Contender(settings=(*LORA, "strategy.name=ewc"), rates=(3e-4, 7e-4, 1e-3, 2e-3)),
    "I-LoRA": Contender(settings=(*LORA, "strategy.name=ilora"), rates=(3e-4, 7e-4, 1e-3, 2e-3)),
    "LoRA, begun anew": Contender(settings=(*LORA, "method.boundary=anew"), rates=(3e-4, 7e-4, 1e-3, 2e-3)),
    "O-LoRA": Contender(
        settings=(*LORA, "method.boundary=anew", "strategy.name=o_lora"), rates=(1e-4, 3e-4, 7e-4, 1e-3, 2e-3)
    ),
    "KL anchor": Contender(settings=(*LORA, "strategy.name=kl_anchor"), rates=(3e-4, 7e-4, 1e-3)),
    "LwF": Contender(settings=(*LORA, "strategy.name=lwf"), rates=(1e-4, 3e-4, 7e-4)),
    "DoRA": Contender(settings=("method.name=dora",), rates=(1e-4, 3e-4, 7e-4, 1e-3)),
    "MiCA": Contender(settings=("method.name=mica",), rates=(1e-3, 3e-3, 1e-2)),
    "CorDA": Contender(settings=("method.name=corda",), rates=(3e-4, 7e-4, 1e-3)),
    "OSF": Contender(settings=("method.name=osf",), rates=(3e-4, 1e-3, 3e-3)),
    "full": Contender(settings=("method.name=full",), rates=(5e-5, 1e-4, 2e-4)),
    "full, ER": Contender(settings=("method.name=full", "strategy.name=replay"), rates=(5e-5, 1e-4, 2e-4, 4e-4)),
    "LoRA, the base's own text": Contender(
        settings=(*LORA, *OWN_TEXT, "strategy.settings.task_texts=0"), rates=(3e-4, 7e-4, 1e-3, 2e-3)
    ),
    "LoRA, own text": Contender(settings=(*LORA, *OWN_TEXT), rates=(3e-4, 7e-4, 1e-3, 2e-3)),
    "LoRA, all linear, own text": Contender(
        settings=(*LORA, "method.adapter.target_modules=all-linear", *OWN_TEXT), rates=(3e-4, 7e-4, 1e-3, 2e-3)
    ),
    "full, the base's own text": Contender(
        settings=("method.name=full", *OWN_TEXT, "strategy.settings.task_texts=0"), rates=(5e-5, 1e-4, 2e-4, 4e-4)
    ),
    "full, own text": Contender(settings=("method.name=full", *OWN_TEXT), rates=(5e-5, 1e-4, 2e-4, 4e-4)),
    "CUR-LoRA": Contender(settings=("method.name=cur-lora",), rates=(1e-3, 3e-3, 1e-2)),
    "CABR": Contender(settings=("method.name=cabr-lora",), rates=(3e-5, 1e-4, 3e-4, 1e-3, 3e-3)),
    "SECURA M1, as published": Contender(settings=("method.name=secura-paper",), rates=(1e-3, 3e-3, 1e-2)),
    "SECURA M2, paper": Contender(
        settings=("method.name=cabr-lora", "method.adapter.norm=paper"), rates=(1e-4, 3e-4, 1e-3, 3e-3)
    ),
    "SECURA M1, bounded, tau 0.1": Contender(settings=("method.name=secura",), rates=(3e-3, 1e-2, 3e-2)),
    "SECURA M1, bounded": Contender(
        settings=("method.name=secura", "method.adapter.tau=0.15"), rates=(3e-3, 1e-2, 3e-2, 1e-1)
    ),
    "SECURA M2, bounded": Contender(
        settings=("method.name=secura", "method.adapter.tau=0.15", "method.adapter.reference=fixed"),
        rates=(1e-3, 3e-3, 1e-2, 3e-2),
    ),
    "SECURA, bounded, tau 0.1, begun anew": Contender(
        settings=("method.name=secura", "method.boundary=anew"), rates=(3e-3, 1e-2, 3e-2, 1e-1)
    ),
    "SECURA M1, bounded, tau 0.1, ER": Contender(
        settings=("method.name=secura", "strategy.name=replay"), rates=(3e-3, 1e-2, 3e-2)
    ),
    "SECURA M1, bounded, tau 0.1, KL anchor": Contender(
        settings=("method.name=secura", "strategy.name=kl_anchor"), rates=(1e-3, 3e-3, 1e-2, 3e-2)
    ),
    "SECURA, bounded, I-LoRA": Contender(
        settings=("method.name=secura", "method.adapter.tau=0.15", "method.boundary=keep", "strategy.name=ilora"),
        rates=(3e-3, 1e-2, 3e-2),
    ),
    "SECURA M1, bounded, q and v": Contender(
        settings=("method.name=secura", *QUERY_AND_VALUE), rates=(3e-3, 1e-2, 3e-2, 5e-2)
    ),
    "SECURA M2, bounded, q and v": Contender(
        settings=("method.name=secura", *QUERY_AND_VALUE, "method.adapter.reference=fixed"),
        rates=(3e-3, 1e-2, 3e-2, 5e-2),
    ),
    "LoRA, all linear": Contender(
        settings=(*LORA, "method.adapter.target_modules=all-linear"), rates=(1e-4, 3e-4, 7e-4)
    ),
    "bounded LoRA, all linear, moving": Contender(settings=MOVING_BOUNDED_LORA, rates=(5e-4, 1e-3, 2e-3)),
    "bounded LoRA, all linear, moving, r = 18": Contender(
        settings=(*MOVING_BOUNDED_LORA, "method.adapter.r=18"),
        rates=(3e-4, 1e-3, 2e-3, 3e-3, 5e-3, 1e-2, 2e-2, 5e-2),
    ),
    "bounded LoRA": Contender(settings=("method.name=bounded-lora",), rates=(5e-4, 1e-3, 2e-3, 3e-3)),
}


@dataclass(frozen=True, kw_only=True)
class Run:
    name: str
    rate: float
    seed: int
    order: int
    validation: bool = False

    def file(self, results: Path) -> Path:
        kind = "validation" if self.validation else f"order{self.order}-seed{self.seed}"
        name = "".join(letter if letter.isalnum() else "_" for letter in self.name)
        return results / f"{name}-{self.rate:g}-{kind}.json"


def run(one: Run, results: Path, scratch: Path) -> dict[str, Any]:
    """Learn the sequence in a process of its own, on one core; its scores."""
    file = one.file(results)
    if file.exists():
        return json.loads(file.read_text())
    out = scratch / file.stem
    yaml = scratch / f"{file.stem}.yaml"
    scratch.mkdir(parents=True, exist_ok=True)
    yaml.touch()
    settings = [
        *CONTENDERS[one.name].settings,
        f"training.learning_rate={one.rate}",
        f"training.seed={one.seed}",
        f"training.steps={STEPS}",
        f"training.save_every={STEPS}",
        f"data.train_rows={16 * STEPS}",
    ]
    if CONTENDERS[one.name].settings[0].removeprefix("method.name=") not in CANNOT_FOLD:
        settings.append("method.adapter.scale=plain")  # which the rates were chosen for
    if one.validation:
        settings += [f"tasks=[{', '.join(validation_tasks())}]"]
    elif one.order:
        settings += [f"order_seed={one.order}"]
    command = [str(Path(sys.executable).with_name("secura")), "sequence", str(yaml), "--out", str(out)]
    command += [part for setting in settings for part in ("--set", setting)]
    began = time.monotonic()
    ran = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if ran.returncode == 0:
        result = summary(out, time.monotonic() - began)
    elif one.validation and "training diverges" in ran.stderr:
        result = {"diverged": ran.stderr.strip().splitlines()[-1]}
    else:
        raise RuntimeError(f"{one}: {ran.stderr[-500:]}")
    results.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result, indent=1) + "\n")
    shutil.rmtree(out)
    return result


def validation_tasks() -> list[str]:
    import random

    from secura.tasks.world import SEQUENCE

    return random.Random(f"order/{VALIDATION_ORDER}").sample(SEQUENCE, VALIDATION_TASKS)


def summary(out: Path, seconds: float) -> dict[str, Any]:
    tasks = json.loads((out / "matrix.json").read_text())["tasks"]
    scores = read_matrix(out, tasks)
    matrix = scores.task_matrix()
    stored = json.loads((out / "sequence.json").read_text())
    last = len(tasks)
    return {
        "tasks": tasks,
        "just_learned": statistics.mean(matrix.score(stage, task) or 0.0 for stage, task in enumerate(tasks, start=1)),
        "at_the_end": average_accuracy(matrix).mean,
        "forgetting_best_minus_last": forgetting_best_minus_last(matrix).mean,
        "knowledge": [scores.knowledge(stage) for stage in range(last + 1)],
        "scores": [list(row) for row in matrix.scores],
        "trainable_weights": stored["trainable_weights"],
        "seconds": round(seconds),
        "settings": stored["config"],
        "provenance": stored["provenance"],
    }


def final_average(result: dict[str, Any]) -> float:
    """The rule that chooses a rate; one that diverges is never chosen."""
    if "diverged" in result:
        return 0.0
    return (result["at_the_end"] + result["knowledge"][-1] / result["knowledge"][0]) / 2


def shown(shares: Sequence[float]) -> str:
    """Mean in %, and half of Student's 95 % interval."""
    mean = 100 * statistics.mean(shares)
    if len(shares) < 2:
        return f"{mean:.1f}"
    half = 100 * float(students_t.ppf(0.975, len(shares) - 1)) * statistics.stdev(shares) / len(shares) ** 0.5
    return f"{mean:.1f} ± {half:.1f}"


def table(results: dict[str, list[dict[str, Any]]], rates: dict[str, float]) -> str:
    lines = [
        "| method | trained weights | rate | runs | just learned, % | at the end, % | knowledge kept, % "
        "| mean of these two, % | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    best_first = sorted(results, key=lambda name: -statistics.mean(map(final_average, results[name])))
    for name in best_first:
        runs = results[name]
        kept = [one["knowledge"][-1] / one["knowledge"][0] for one in runs]
        cells = [
            name,
            f"{runs[0]['trainable_weights']:,}",
            f"{rates[name]:g}",
            str(len(runs)),
            shown([one["just_learned"] for one in runs]),
            shown([one["at_the_end"] for one in runs]),
            shown(kept),
            shown([final_average(one) for one in runs]),
            f"{statistics.median(one['seconds'] for one in runs):.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "sixteen_tasks")
    parser.add_argument("--scratch", type=Path, default=Path("runs/sixteen_tasks"))
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--runs", nargs="+", default=["0:0", "1:1", "2:0", "0:1", "1:0", "2:1"], metavar="SEED:ORDER")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rates-only", action="store_true", help="choose the rates and stop")
    parser.add_argument("--table", action="store_true", help="run nothing; print what is there")
    parser.add_argument("--harsh", action="store_true", help=f"every method at {HARSH_RATE:g}, the paper's setting")
    arguments = parser.parse_args()
    names: list[str] = arguments.only

    def all_of(runs: list[Run]) -> list[dict[str, Any]]:
        if arguments.table:
            return [json.loads(one.file(arguments.results).read_text()) for one in runs]
        with ThreadPoolExecutor(arguments.workers) as pool:
            jobs = [pool.submit(run, one, arguments.results, arguments.scratch) for one in runs]
            found = []
            for done, job in enumerate(jobs, start=1):
                found.append(job.result())
                print(f"{done} of {len(jobs)} sequences", file=sys.stderr)
        return found

    rates = dict.fromkeys(names, HARSH_RATE)
    if not arguments.harsh:
        trials = [
            Run(name=name, rate=rate, seed=VALIDATION_SEED, order=VALIDATION_ORDER, validation=True)
            for name in names
            for rate in CONTENDERS[name].rates
        ]
        tried = list(zip(trials, all_of(trials), strict=True))
        for name in names:
            own = [(final_average(result), trial.rate) for trial, result in tried if trial.name == name]
            rates[name] = max(own)[1]
        print("\n".join(f"{one.name} {one.rate:g}: {100 * final_average(result):.1f}" for one, result in tried))
        if arguments.rates_only:
            return
    places = [tuple(int(part) for part in place.split(":")) for place in arguments.runs]
    runs = [Run(name=name, rate=rates[name], seed=seed, order=order) for seed, order in places for name in names]
    if arguments.table:
        runs = [one for one in runs if one.file(arguments.results).exists()]
    results: dict[str, list[dict[str, Any]]] = {one.name: [] for one in runs}
    for one, result in zip(runs, all_of(runs), strict=True):
        results[one.name].append(result)
    print(table(results, rates))


if __name__ == "__main__":
    main()
