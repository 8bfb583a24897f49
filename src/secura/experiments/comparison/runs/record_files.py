"""Records on disk: `DIR/GRID/results/NAME.json`, one a run, in the layout of PEFT's method comparison.

    run_info    created_at, total_time, experiment_name, peft_branch, train_config, peft_config, error_msg
    train_info  accelerator_memory_*, train_time, file_size, num_*_params, status, metrics
    meta_info   model_info, dataset_info, package_info, system_info, pytorch_info
    secura      what PEFT has no place for; a file of PEFT's own has none of it

PEFT's `method_comparison/processing.py` reads our files as they are, and `read_record` reads PEFT's,
those from before its page said `cuda_` where it now says `accelerator_` included. What stands in one of
PEFT's places is read back from there and is not stored twice, except for the handful of settings and
versions that its page shows.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from secura.errors import DataError
from secura.evaluation.tally import Tally
from secura.experiments.comparison.runs.record import RunRecord
from secura.file_names import file_name
from secura.json_text import read_json
from secura.whole_files import write_json

RESULTS_FOLDER = "results"
FAILED_FOLDER = "failed"
"""In the results folder: failures of runs that were tried again."""

PEFT_GRID = "PEFT"
"""The grid of PEFT's published results."""

_IN_PEFTS_PLACES = (
    *("model", "seed", "learning_rate", "status", "error", "created_at", "total_seconds"),
    *("forgetting_nats", "train_loss", "cost", "adapter"),
)
_MEMORY = {"max": "peak_memory_mb", "reserved_avg": "mean_memory_mb", "reserved_99th": "high_memory_mb"}
_RECORD = TypeAdapter(RunRecord)


_RUN_NAME_BYTES = 200
"""Room for all that `GridRun.name` is made of."""


def record_path(folder: Path, grid: str, name: str) -> Path:
    """Where the record of a run lies; both names may come out of a file."""
    return folder / file_name(grid) / RESULTS_FOLDER / f"{file_name(name, at_most=_RUN_NAME_BYTES)}.json"


def write_record(folder: Path, record: RunRecord) -> Path:
    """Store a record, whole or not at all; returns the file.

    Args:
        folder: folder of the comparison.
        record: what came of one run.
    """
    path = record_path(folder, record.grid, record.name)
    write_json(path, record_as_json(record))
    return path


def read_records(folder: Path) -> list[RunRecord]:
    """Every record below a folder, ours and PEFT's, ordered by grid, label, task and seed.

    Args:
        folder: folder of a comparison, of one of its grids, or of result files.

    Raises:
        DataError: if there is no such folder, or a file in it is not a record.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; name that of a comparison, such as runs/miniature.")
    records = [read_record(path) for path in _record_files(folder)]
    return sorted(records, key=lambda each: (each.grid, each.label, each.model, each.task, each.seed, each.name))


def _record_files(folder: Path) -> list[Path]:
    """Current records: files directly in a folder called results, or in this one where it has no such folder."""
    found = sorted(folder.glob(f"**/{RESULTS_FOLDER}/*.json"))
    return found or sorted(folder.glob("*.json"))


def read_record(path: Path) -> RunRecord:
    """Read one record, ours or PEFT's.

    Raises:
        DataError: if the file is not JSON, or not in the layout; the message names the field.
    """
    try:
        stored = read_json(path)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as problem:
        raise DataError(f"{path} cannot be read as a result: {problem}.") from problem
    try:
        return _from_json(stored)
    except ValidationError as problem:
        first = problem.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(
            f"{path} is not a result: {where} is {str(first['input'])[:80]!r}, {first['msg']}."
        ) from problem
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        reason = f"it has no {problem}" if isinstance(problem, KeyError) else str(problem)
        raise DataError(
            f"{path} is not a result in the layout of PEFT's method comparison: {reason}; "
            "a result has run_info, train_info and meta_info."
        ) from problem


# ---------------------------------------------------------------------- writing


def record_as_json(record: RunRecord) -> dict[str, Any]:
    """A record in PEFT's layout."""
    own = {key: value for key, value in asdict(record).items() if key not in _IN_PEFTS_PLACES}
    versions = record.provenance.get("versions", {})
    return {
        "run_info": {
            "created_at": record.created_at,
            "total_time": record.total_seconds,
            "experiment_name": f"{record.label}/{record.task}-seed{record.seed}",
            "peft_branch": "main",  # a release of PEFT, which is what its page takes for a main run
            "train_config": _train_config(record),
            "peft_config": None if record.adapter is None else dict(record.adapter),
            "error_msg": record.error,
        },
        "train_info": _train_info(record),
        "meta_info": {
            "model_info": {"sha": None, "created_at": None},
            "dataset_info": {record.task: {"sha": None, "created_at": None}},
            "package_info": {
                f"{package}-{what}": versions.get(package) if what == "version" else None
                for package in ("transformers", "peft", "datasets", "bitsandbytes", "torch")
                for what in ("version", "commit-hash")
            },
            "system_info": _system_info(record),
            "pytorch_info": "",
        },
        "secura": own,
    }


def _train_config(record: RunRecord) -> dict[str, Any]:
    training = record.settings.get("training", {})
    data, scoring = record.settings.get("data", {}), record.settings.get("scoring", {})
    return {
        "model_id": record.model,
        "dtype": record.settings.get("model", {}).get("dtype"),
        "max_seq_length": data.get("max_length"),
        "batch_size": training.get("batch_size"),
        "batch_size_eval": scoring.get("batch_size"),
        "max_steps": training.get("steps"),
        "seed": record.seed,
        "grad_norm_clip": training.get("max_grad_norm"),
        "optimizer_type": "AdamW",
        "optimizer_kwargs": {"lr": record.learning_rate, "weight_decay": training.get("weight_decay")},
        "lr_scheduler": training.get("schedule"),
        "use_gc": training.get("gradient_checkpointing"),
    }


def _train_info(record: RunRecord) -> dict[str, Any]:
    cost = record.cost
    memory = {f"accelerator_memory_{key}": _bytes(getattr(cost, name)) for key, name in _MEMORY.items()}
    return {
        **memory,
        "train_time": cost.training_seconds,
        "file_size": cost.adapter_bytes,
        "num_trainable_params": cost.trainable_weights,
        "num_total_params": cost.total_weights,
        "status": record.status,
        "metrics": [
            {
                "step": record.settings.get("training", {}).get("steps"),
                "test accuracy": share_right(record),
                "train loss": record.train_loss,
                "train samples": cost.rows,
                "train total tokens": cost.tokens,
                "forgetting": record.forgetting_nats,
            }
        ],
    }


def _system_info(record: RunRecord) -> dict[str, Any]:
    hardware = record.provenance.get("hardware", {})
    return {"machine": hardware.get("machine"), "accelerator": hardware.get("gpu") or "cpu"}


def share_right(record: RunRecord) -> float | None:
    """Share of the new task's questions, or of a sequence's, answered right in the end; None where unknown."""
    if record.accuracy is not None:
        return record.accuracy
    if record.gain is not None:
        return record.gain.after / record.gain.asked if record.gain.asked else None
    if record.sequence is not None and record.sequence.scores:
        last = [score for score in record.sequence.scores[-1] if score is not None]
        return sum(last) / len(last) if last else None
    return None


def _bytes(megabytes: float | None) -> int | None:
    return None if megabytes is None else round(megabytes * 1e6)


# ---------------------------------------------------------------------- reading


def _from_json(stored: Mapping[str, Any]) -> RunRecord:
    run, train, meta = stored["run_info"], stored["train_info"], stored["meta_info"]
    config, metrics = run["train_config"], (train["metrics"] or [{}])[-1]
    in_pefts_places = {
        "model": config["model_id"],
        "seed": config["seed"],
        "learning_rate": config["optimizer_kwargs"].get("lr"),
        "status": train["status"],
        "error": run["error_msg"],
        "created_at": run["created_at"],
        "total_seconds": run["total_time"],
        "forgetting_nats": metrics.get("forgetting"),
        "train_loss": metrics.get("train loss"),
        "cost": {
            "trainable_weights": train["num_trainable_params"],
            "total_weights": train["num_total_params"],
            "adapter_bytes": train["file_size"],
            "training_seconds": train["train_time"],
            "rows": metrics.get("train samples"),
            "tokens": metrics.get("train total tokens"),
            **{name: _memory(train, key) for key, name in _MEMORY.items()},
        },
        "adapter": run["peft_config"],
    }
    own = stored.get("secura")
    if own is None:
        own = _of_peft(run, train, meta, metrics)
    return _RECORD.validate_python({**own, **_with_losses(own), **in_pefts_places})


def _with_losses(own: Mapping[str, Any]) -> dict[str, Any]:
    """Tallies of records from before losses were counted, with the fewest that their totals allow."""

    def filled(tally: Any) -> Any:
        older = isinstance(tally, dict) and "lost" not in tally and {"asked", "before", "after"} <= set(tally)
        return Tally.of_totals(**tally) if older else tally

    knowledge = own.get("knowledge")
    return {
        "gain": filled(own.get("gain")),
        "knowledge": {name: filled(tally) for name, tally in knowledge.items()} if isinstance(knowledge, dict) else {},
    }


def _memory(train: Mapping[str, Any], key: str) -> float | None:
    """In MB; PEFT's page said cuda until it also ran on other accelerators."""
    place = f"accelerator_memory_{key}"
    in_bytes = train[place] if place in train else train[f"cuda_memory_{key}"]
    return None if in_bytes is None else in_bytes / 1e6


def _of_peft(
    run: Mapping[str, Any], train: Mapping[str, Any], meta: Mapping[str, Any], metrics: Mapping[str, Any]
) -> dict[str, Any]:
    """What a file of PEFT's own says beyond the places that both have."""
    experiment = run["experiment_name"]
    task = "+".join(meta["dataset_info"])
    return {
        "name": file_name(f"peft-{experiment.replace('/', '--')}", at_most=_RUN_NAME_BYTES),
        "grid": PEFT_GRID,
        "label": experiment,
        "task": "MetaMathQA" if task == "metamath+gsm8k" else task,
        "accuracy": metrics["test accuracy"] if train["status"] == "success" else None,
        "settings": {"training": run["train_config"]},
        "provenance": {key: meta[key] for key in ("model_info", "dataset_info", "package_info", "system_info")},
        "source": "peft",
    }
