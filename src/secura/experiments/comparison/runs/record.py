"""What is kept of one run of a grid, and what every table, figure and card is drawn from.

A record is stored in the layout of PEFT's method comparison (`run_info`, `train_info`,
`meta_info`), so that its page reads our files, with what PEFT has no place for under `secura`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from secura.evaluation.spectra import Spectrum
from secura.evaluation.tally import Tally
from secura.experiments.comparison.runs.curve_point import CurvePoint

Status = Literal["success", "failed", "canceled"]


@dataclass(frozen=True, kw_only=True)
class SequenceRecord:
    """The scores of a sequence of tasks."""

    tasks: Sequence[str]
    """The tasks in the order learned."""
    scores: Sequence[Sequence[float | None]]
    """R[t][i]: task i after t tasks, as a share of 1; row 0 is the base model, None is missing."""
    knowledge: Sequence[float | None]
    """Share of the knowledge questions answered right after t tasks; entry 0 is the base model."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a run cost; None where it is not known."""

    trainable_weights: int | None = None
    """Weights that were trained."""
    total_weights: int | None = None
    """All weights of the model, adapter included."""
    adapter_bytes: int | None = None
    """Size of what was saved."""
    training_seconds: float | None = None
    """Wall-clock time of the steps alone."""
    peak_memory_mb: float | None = None
    """The most memory held while training, in MB of 10⁶ bytes; of the GPU where there is one."""
    mean_memory_mb: float | None = None
    """The same, mean over the steps."""
    high_memory_mb: float | None = None
    """The same, exceeded at 1 % of the steps."""
    rows: int | None = None
    """Rows trained on, each as often as it was seen."""
    tokens: int | None = None
    """Tokens of these rows, estimated from the mean length of a row."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run: what was asked for, what came out, what it cost."""

    name: str
    """Unique and stable: the label and a hash of everything that decides the result."""
    grid: str
    """Name of the grid."""
    label: str
    """The method as the grid calls it; what tables and figures group by."""
    model: str
    """The base model."""
    task: str
    """What was learned; `sequence` for a sequence of tasks."""
    seed: int
    """Seed of the run."""
    learning_rate: float | None
    """Peak learning rate."""
    status: Status
    """How it ended; a failed run is kept as failed."""
    error: str = ""
    """Why it failed."""
    created_at: str = ""
    """When it ended, ISO 8601, UTC."""
    total_seconds: float | None = None
    """Wall-clock time of the whole run."""
    gain: Tally | None = None
    """Held-out questions of the new task; None where none could be matched."""
    gain_nats: tuple[float | None, float | None] = (None, None)
    """Mean nats per answer token on the new task before and after, for long answers."""
    knowledge: Mapping[str, Tally] = field(default_factory=dict)
    """The retention questions by family."""
    forgetting_nats: float | None = None
    """PEFT's forgetting number: increase of the mean cross-entropy per token on a fixed text."""
    sequence: SequenceRecord | None = None
    """For a sequence of tasks."""
    curve: Sequence[CurvePoint] = ()
    """What was learned and forgotten on the way and with the change scaled back; the base first."""
    gradient_norms: Sequence[tuple[int, float]] = ()
    """Step and norm of the gradient before clipping, in order of the steps."""
    spectra: Sequence[Spectrum] = ()
    """Of the adapted weights, where the grid asks for them."""
    train_loss: float | None = None
    """Mean training loss over the last 250 steps, or all where there were fewer, as PEFT has it."""
    cost: Cost = field(default_factory=Cost)
    """What the run cost."""
    adapter: Mapping[str, Any] | None = None
    """PEFT's configuration of the adapter; None for none."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The full configuration, every default filled in."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Commit, versions, hardware, and versions of the tasks and of the scoring."""
    source: Literal["secura", "peft"] = "secura"
    """Whose run it is: one of ours, or one read from PEFT's published results."""
    accuracy: float | None = None
    """Share of the new task's questions answered right, where only that is known (PEFT's files)."""
