"""Records of runs, made up: whatever a report must show, without a run."""

import json
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from secura.evaluation.spectra import Spectrum
from secura.evaluation.tally import Tally
from secura.experiments.comparison.runs.record import Cost, RunRecord, SequenceRecord
from secura.experiments.comparison.runs.record_files import write_record

LABELS = ("LoRA", "DoRA", "CUR-LoRA", "I-LoRA", "CABR", "SECURA M1", "SECURA M2")
TASKS = ("own_things", "two_steps", "different_homes", "younger", "ask_in_ulvish")
SKILL = {label: 0.97 - 0.015 * place for place, label in enumerate(LABELS)}
KEEPS = {label: 0.70 + 0.045 * place for place, label in enumerate(LABELS)}


def made_record(label: str = "LoRA", *, seed: int = 0, **changes: Any) -> RunRecord:
    """A record that has a gain and knowledge, and whatever else `changes` gives it."""
    fields: dict[str, Any] = {
        "grid": "performance",
        "label": label,
        "model": "bundled",
        "task": "own_things",
        "seed": seed,
        "learning_rate": 1e-3,
        "status": "success",
        "created_at": "2026-11-24T03:00:00Z",
        "total_seconds": 12.0,
        "gain": Tally.of_totals(asked=200, before=10, after=180),
        "knowledge": {
            "homes": Tally.of_totals(asked=50, before=50, after=45),
            "ages": Tally.of_totals(asked=50, before=40, after=30),
        },
        "cost": Cost(
            trainable_weights=65_536,
            total_weights=1_506_656,
            adapter_bytes=270_000,
            training_seconds=9.5,
            peak_memory_mb=560.0,
        ),
        "provenance": {
            "versions": {"secura": "0.1.0", "torch": "2.13.0"},
            "commit": "0123456789abcdef",
            "hardware": {"machine": "x86_64", "cores": 2},
        },
        **changes,
    }
    fields.setdefault("name", f"{label}-{fields['task']}-{seed}-{fields['learning_rate']:g}".replace(" ", "_"))
    return RunRecord(**fields)


def made_sequence(tasks: Sequence[str], *, keeps: float, draw: random.Random) -> SequenceRecord:
    """Scores of a sequence in which each task falls by a share with every task after it."""
    scores: list[list[float | None]] = []
    for stage in range(len(tasks) + 1):
        row: list[float | None] = []
        for column in range(len(tasks)):
            since = stage - column - 1
            score = 0.04 if since < 0 else 0.95 * (0.5 + keeps / 2) ** since
            row.append(round(min(1.0, max(0.0, score + draw.gauss(0, 0.015))), 3))
        scores.append(row)
    knowledge = [round(min(1.0, keeps ** (stage / 4) + draw.gauss(0, 0.006)), 4) for stage in range(len(tasks) + 1)]
    return SequenceRecord(tasks=list(tasks), scores=scores, knowledge=knowledge)


def _cost(label: str, seconds: float) -> Cost:
    weights = 33_000 + 8_192 * LABELS.index(label)
    return Cost(
        trainable_weights=weights,
        total_weights=1_441_120 + weights,
        adapter_bytes=4 * weights + 9_000,
        training_seconds=seconds,
        peak_memory_mb=540 + 3.5 * LABELS.index(label),
    )


def _knowledge(kept: float, draw: random.Random) -> dict[str, Tally]:
    families = ("homes", "ages", "trades", "colours", "letters", "phrases")
    return {
        family: Tally.of_totals(asked=50, before=48, after=max(0, min(50, round(48 * kept + draw.gauss(0, 1.2)))))
        for family in families
    }


def made_grids(*, seeds: int = 3, labels: Sequence[str] = LABELS) -> list[RunRecord]:
    """Five grids as of the paper's experiments, with a failed run, a diverged method and a run that is missing."""
    draw = random.Random(0)
    records = []
    for label in labels:
        for seed in range(seeds):
            for task in TASKS:
                if (label, task, seed) == ("DoRA", "younger", 1):
                    continue
                after = min(200, round(200 * (SKILL[label] - 0.04 * TASKS.index(task) + draw.gauss(0, 0.012))))
                record = made_record(
                    label,
                    seed=seed,
                    task=task,
                    gain=Tally.of_totals(asked=200, before=6, after=after),
                    knowledge=_knowledge(KEEPS[label] + draw.gauss(0, 0.01), draw),
                    forgetting_nats=round(0.6 - 0.6 * KEEPS[label] + draw.gauss(0, 0.01), 4),
                    cost=_cost(label, 9.0 + LABELS.index(label) + draw.random()),
                    gradient_norms=[
                        (step, math.exp(draw.gauss(1.2 - 0.4 * LABELS.index(label) - step / 120, 0.25)))
                        for step in range(1, 151)
                    ]
                    if task == "own_things"
                    else (),
                    spectra=_spectra(1 + 0.002 * (7 - LABELS.index(label)) ** 1.5, draw)
                    if task == "own_things"
                    else (),
                )
                if (label, task) == ("LoRA", "ask_in_ulvish"):
                    record = _failed(record, "the loss became NaN at step 37; lower training.learning_rate.")
                records.append(record)
            for rate in (1e-3, 3e-3, 1e-2, 3e-2):
                harsh = math.log10(rate / 1e-3)
                kept = max(0.02, KEEPS[label] - 0.28 * harsh * (1 - 0.12 * LABELS.index(label)))
                record = made_record(
                    label,
                    seed=seed,
                    grid="harsh_rates",
                    learning_rate=rate,
                    gain=Tally.of_totals(
                        asked=200, before=6, after=round(200 * min(1, SKILL[label] + draw.gauss(0, 0.01)))
                    ),
                    knowledge=_knowledge(kept + draw.gauss(0, 0.015), draw),
                    cost=_cost(label, 10.0),
                )
                if label == "LoRA" and rate == 3e-2:
                    record = _failed(record, "the loss became NaN at step 4; lower training.learning_rate.")
                records.append(record)
            names = [f"task_{place}" for place in range(1, 17)]
            made = made_sequence(names, keeps=KEEPS[label], draw=draw)
            before, after = (round(1000 * (share or 0)) for share in (made.knowledge[0], made.knowledge[-1]))
            records.append(
                made_record(
                    label,
                    seed=seed,
                    grid="sixteen_tasks",
                    task="sequence",
                    gain=None,
                    knowledge={"all": Tally.of_totals(asked=1000, before=before, after=after)},
                    sequence=made,
                    cost=_cost(label, 160.0),
                )
            )
    return records


def _failed(record: RunRecord, error: str) -> RunRecord:
    return replace(record, status="failed", error=error, gain=None, knowledge={}, forgetting_nats=None, cost=Cost())


def _spectra(growth: float, draw: random.Random) -> list[Spectrum]:
    found = []
    for place, layer in enumerate(("layers.0.q_proj", "layers.0.v_proj", "layers.3.q_proj", "layers.3.v_proj")):
        before = [6 * math.exp(-rank / 18) + 0.02 for rank in range(64)]
        after = [value * growth * (1 + 0.01 * place + draw.gauss(0, 0.002)) for value in before]
        found.append(
            Spectrum(
                layer=layer,
                before=before,
                after=after,
                norm_before=math.sqrt(sum(value**2 for value in before)),
                norm_after=math.sqrt(sum(value**2 for value in after)),
            )
        )
    return found


def write_records(folder: Path, records: Sequence[RunRecord]) -> Path:
    """Store records as a comparison does."""
    for record in records:
        write_record(folder, record)
    return folder


def write_peft_results(folder: Path, *, model: str = "meta-llama/Llama-3.2-3B", count: int = 12) -> None:
    """Result files in the layout of PEFT's method comparison, made up."""
    draw = random.Random(1)
    place = folder / "PEFT" / "results"
    place.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        experiment = f"method{number}/llama-3.2-3B-rank32"
        accuracy = 0.3 + 0.02 * number + draw.gauss(0, 0.03)
        stored = {
            "run_info": {
                "created_at": "2026-10-01T00:00:00+00:00",
                "total_time": 1900.0,
                "experiment_name": experiment,
                "peft_branch": "main",
                "train_config": {"model_id": model, "seed": 0, "optimizer_kwargs": {"lr": 1e-4}},
                "peft_config": {"peft_type": "LORA"},
                "error_msg": "",
            },
            "train_info": {
                "accelerator_memory_reserved_avg": 1.1e10,
                "accelerator_memory_max": 2.2e10,
                "accelerator_memory_reserved_99th": 1.7e10,
                "train_time": 1700.0 + 20 * number,
                "file_size": 36_000_000 + number,
                "num_trainable_params": 9_175_040,
                "num_total_params": 3_221_924_864,
                "status": "success",
                "metrics": [
                    {
                        "step": 5000,
                        "test accuracy": accuracy,
                        "train loss": 0.6,
                        "train samples": 20_000,
                        "train total tokens": 4_000_000,
                        "forgetting": 0.05 + 0.03 * number + draw.gauss(0, 0.05),
                    }
                ],
            },
            "meta_info": {
                "model_info": {"sha": "a", "created_at": ""},
                "dataset_info": {"metamath": {"sha": "b"}, "gsm8k": {"sha": "c"}},
                "package_info": {"peft-version": "0.21.2"},
                "system_info": {"system": "Linux"},
                "pytorch_info": "",
            },
        }
        (place / f"{experiment.replace('/', '--')}.json").write_text(json.dumps(stored))
