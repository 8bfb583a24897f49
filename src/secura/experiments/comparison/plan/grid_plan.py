"""What a grid would cost before any of it runs: runs, steps, trained weights, GPU memory and hours.

Operations are counted on the meta device, forward and backward; with checkpointing the forward
pass counts twice. Hours are those of the steps alone: loading a model and asking it questions
come on top, as do extra forward passes of a strategy such as LwF. Every row of data is taken to
be as long as the longest, so both memory and hours are those of a grid without short rows.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import PretrainedConfig

from secura.errors import ConfigError, InputError
from secura.experiments.comparison.grid.config import load_grid
from secura.experiments.comparison.grid.expand import runs_of_grid
from secura.experiments.comparison.grid.grid_run import GridRun
from secura.experiments.comparison.plan.gpus import GPUS, Gpu
from secura.experiments.comparison.plan.memory_estimate import Folding, MemoryEstimate, estimate_memory
from secura.experiments.comparison.plan.meta_model import model_on_meta
from secura.experiments.comparison.plan.model_configs import config_of_model
from secura.training.meta_layers import all_weights
from secura.training.step_count import count_step

Number = TypeVar("Number", int, float)
_SLOW_STARTS = {"mica", "corda", "osf"}
"""Methods that take weights apart, or read text, before they begin."""
DEFAULT_TOKENS = 512
"""Tokens a row where the grid sets no data.max_length."""


@dataclass(frozen=True, kw_only=True)
class RunCost:
    """What one run takes."""

    trained_weights: int
    """Weights that are trained."""
    total_weights: int
    """All weights, adapter included."""
    memory: MemoryEstimate
    """As the grid sets gradient checkpointing."""
    memory_with_checkpointing: MemoryEstimate
    """With gradient checkpointing."""
    flops_per_step: int
    """Operations of one optimizer step."""


@dataclass(frozen=True, kw_only=True)
class PlanRow:
    """What all runs of a method on a model take."""

    grid: str
    """Name of the grid."""
    model: str
    """The model as the grid calls it."""
    label: str
    """The method as the grid calls it."""
    runs: int
    """How many runs there are."""
    steps: int | None
    """Optimizer steps of all of them; None where a run counts epochs instead."""
    largest: RunCost
    """The run that holds most memory."""
    flops: float | None
    """Operations of all of them; None where the steps are not known."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the runs of one or more grids take."""

    rows: Sequence[PlanRow]
    """By grid, model and method, in the order of the grids."""
    gpus: Sequence[Gpu] = GPUS
    """What hours are counted on."""
    notes: Sequence[str] = field(default_factory=tuple)
    """What the numbers leave out."""

    @property
    def runs(self) -> int:
        """All runs."""
        return sum(row.runs for row in self.rows)

    @property
    def steps(self) -> int | None:
        """All optimizer steps; None where some are not known."""
        return _sum_if_known([row.steps for row in self.rows])

    @property
    def flops(self) -> float | None:
        """All operations; None where some are not known."""
        return _sum_if_known([row.flops for row in self.rows])


def runs_of_files(files: Sequence[Path], assignments: Sequence[str] = ()) -> list[GridRun]:
    """Every run that the files declare.

    Raises:
        InputError: for a file or a setting that cannot be used.
    """
    return [run for file in files for run in runs_of_grid(load_grid(file, assignments))]


def plan_runs(runs: Sequence[GridRun], *, tokens: int = DEFAULT_TOKENS) -> Plan:
    """Work out what runs would take, without loading a weight.

    Args:
        runs: the runs.
        tokens: tokens a row where the grid sets no data.max_length.

    Raises:
        ConfigError: if the sizes of a model are not known, or a method does not fit its
            layers; the message names the run.
    """
    if tokens < 2:
        raise ConfigError(f"tokens is {tokens}; a row has at least 2.")
    groups: dict[tuple[str, str, str], list[tuple[GridRun, RunCost]]] = defaultdict(list)
    for run in runs:
        groups[run.grid, run.model, run.label].append((run, _cost(run, tokens)))
    rows = [_row(grid, model, label, members) for (grid, model, label), members in groups.items()]
    return Plan(rows=rows, notes=_notes(runs, tokens))


def _row(grid: str, model: str, label: str, members: Sequence[tuple[GridRun, RunCost]]) -> PlanRow:
    return PlanRow(
        grid=grid,
        model=model,
        label=label,
        runs=len(members),
        steps=_sum_if_known([run.steps for run, _ in members]),
        largest=max((cost for _, cost in members), key=lambda cost: cost.memory.total),
        flops=_sum_if_known(
            [None if run.steps is None else float(run.steps * cost.flops_per_step) for run, cost in members]
        ),
    )


def _sum_if_known(values: Sequence[Number | None]) -> Number | None:
    total: Number | None = None
    for value in values:
        if value is None:
            return None
        total = value if total is None else total + value
    return total


def _notes(runs: Sequence[GridRun], tokens: int) -> list[str]:
    """What the numbers take for granted, and what they leave out."""
    notes = []
    settings = [run.settings for run in runs]
    if any(each["data"].get("max_length") is None for each in settings):
        notes.append(f"rows count as {tokens} tokens long, because the grid sets no data.max_length")
    if any(run.steps is None for run in runs):
        notes.append("runs that count epochs have no known steps until their data is read; set training.steps")
    if any(each["method"].get("start_from") for each in settings):
        notes.append("the adapter in method.start_from is not read, and counts as a new one of the method's own size")
    left_out = {
        "what {} compute or hold besides the step": {each["strategy"]["name"] for each in settings} - {"sequential"},
        "what {} compute before the first step": {each["method"]["name"] for each in settings} & _SLOW_STARTS,
        "what measuring {} takes": {name for run in runs for name in run.measure} - {"gradient_norms"},
    }
    notes += [f"{what.format(', '.join(sorted(names)))} is not counted" for what, names in left_out.items() if names]
    return [*notes, "loading a model, asking it questions, and what PyTorch's allocator loses in gaps are not counted"]


# ---------------------------------------------------------------------- one run


def _cost(run: GridRun, tokens: int) -> RunCost:
    method, training = run.settings["method"], run.settings["training"]
    try:
        return _counted(
            run.settings["model"]["path"],
            run.settings["model"]["dtype"],
            method["name"],
            json.dumps(method["adapter"], sort_keys=True),
            _folding(run),
            training["batch_size"],
            training["gradient_accumulation"],
            training["gradient_checkpointing"],
            training["precision"],
            run.settings["data"].get("max_length") or tokens,
        )
    except InputError as problem:
        raise type(problem)(f"grid {run.grid}, {run.label} on {run.model}: {problem}") from problem


def _folding(run: GridRun) -> Folding:
    """How often a run folds; of one whose steps are not known, once a task."""
    method, steps = run.settings["method"], run.settings["training"]["steps"]
    tasks, every = len(run.settings.get("tasks") or [run.task]), method["fold_every"]
    folds = 0 if every is None else steps // every if isinstance(every, int) and steps else 1
    folds += method.get("boundary") == "fold"
    return Folding(tasks=tasks, folds=tasks * folds)


@cache  # runs differ by seed, task and rate, none of which changes what they take
def _counted(
    source: str | None,
    dtype: str,
    method: Any,
    adapter_json: str,
    folding: Folding,
    batch: int,
    accumulation: int,
    checkpointing: bool,
    precision: str,
    tokens: int,
) -> RunCost:
    config, adapter = config_of_model(source), json.loads(adapter_json)
    held_in = _held_in(config, dtype)
    computed_in = {"as-stored": held_in, "fp16": torch.float16}.get(precision, torch.bfloat16)
    held = model_on_meta(config, method, adapter, held_in)
    computed = held if computed_in == held_in else model_on_meta(config, method, adapter, computed_in)
    context = getattr(config, "max_position_embeddings", None)
    tokens = min(tokens, context) if context else tokens
    step = count_step(computed, batch=batch, tokens=tokens)
    memory, with_checkpointing = (
        estimate_memory(
            held,
            step,
            batch=batch,
            tokens=tokens,
            hidden=config.hidden_size,
            vocabulary=config.vocab_size,
            computed_in=computed_in,
            checkpointing=each,
            folding=folding,
        )
        for each in (checkpointing, True)
    )
    weights = all_weights(held)
    return RunCost(
        trained_weights=sum(weight.numel() for weight in weights if weight.requires_grad),
        total_weights=sum(weight.numel() for weight in weights),
        memory=memory,
        memory_with_checkpointing=with_checkpointing,
        flops_per_step=accumulation * ((2 if checkpointing else 1) * step.forward_flops + step.backward_flops),
    )


def _held_in(config: PretrainedConfig, dtype: str) -> torch.dtype:
    if dtype != "auto":
        return getattr(torch, dtype)
    stored = config.dtype
    if stored is None:
        return torch.float32
    return getattr(torch, stored) if isinstance(stored, str) else stored
