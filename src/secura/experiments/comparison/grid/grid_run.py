"""One run of a grid: its settings, and the name that everything deciding its result gives it."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from secura.experiments.comparison.grid.config import Kind, Measure
from secura.file_names import file_name


@dataclass(frozen=True, kw_only=True)
class GridRun:
    """One run of a grid, as it is declared."""

    grid: str
    """Name of the grid."""
    kind: Kind
    """Whether it learns one task or a sequence of them."""
    label: str
    """The method as the grid calls it."""
    model: str
    """The model as the grid calls it."""
    task: str
    """The task as the grid calls it, or `sequence`."""
    settings: Mapping[str, Any]
    """The configuration, the method's defaults in place of what was left open; no folder."""
    measure: tuple[Measure, ...] = ()
    """What is measured besides the questions, sorted."""
    forgetting_text: str | None = None
    """The fixed text to measure forgetting on, where it is not the bundled one."""
    curve: Mapping[str, Any] | None = None
    """At which points it is measured, where the grid says so."""
    versions: Mapping[str, Any]
    """Versions of the scorer and of the tasks, checksums of files: what decides the result besides the settings."""

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return self.settings["training"]["seed"]

    @property
    def learning_rate(self) -> float:
        """Peak learning rate."""
        return self.settings["training"]["learning_rate"]

    @property
    def steps(self) -> int | None:
        """Optimizer steps of the run, where the settings say so; for a sequence, of all its tasks."""
        steps, tasks = self.settings["training"]["steps"], self.settings.get("tasks")
        return None if steps is None else steps * (len(tasks) if tasks else 1)

    @cached_property
    def name(self) -> str:
        """`label-task-seed-` and ten digits of a checksum; the same on every machine."""
        deciding = {
            "kind": self.kind,
            "settings": _as_before_they_were_added(self.settings),
            "measure": list(self.measure),
            "forgetting_text": self.forgetting_text,
            "versions": self.versions,
        }
        if self.curve is not None:  # runs without one keep the names they have
            deciding["curve"] = self.curve
        canonical = json.dumps(deciding, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
        checksum = hashlib.sha256(canonical.encode()).hexdigest()[:10]
        return "-".join([_without_dashes(self.label), _without_dashes(self.task), str(self.seed), checksum])


ADDED: Mapping[str, Mapping[str, Any]] = {
    "model": {"load_in_4bit": False, "load_in_8bit": False, "attn_implementation": None},
    "data": {"turns": "all", "columns": {}, "mix": {}},
    "training": {
        "tokens_per_step": None,
        "packing": False,
        "padding_free": False,
        "optimizer": None,
        "eval_every": None,
        "best": None,
        "best_keeps": 0.95,
        "patience": None,
        "report_to": [],
    },
    "": {"push_to_hub": None},
}
"""Settings that came when runs had names already, and what leaves a run as it was."""


def _as_before_they_were_added(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without those of `ADDED` that are not set: a run keeps the name that it has."""
    kept: dict[str, Any] = {}
    for name, value in settings.items():
        unset = ADDED.get(name)
        if unset is not None and isinstance(value, Mapping):
            kept[name] = {key: each for key, each in value.items() if key not in unset or each != unset[key]}
        elif name not in ADDED[""] or value != ADDED[""][name]:
            kept[name] = value
    return kept


def _without_dashes(text: str) -> str:
    return file_name(re.sub(r"[^\w.]+", "_", text).strip("_") or "run")
