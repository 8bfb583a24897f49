"""Everything that may be set about a sequence of tasks, each with its meaning."""

from typing import Any, Literal

from pydantic import Field

from secura.experiments.settings.names import Boundary, MethodName
from secura.experiments.settings.run import (
    ModelConfig,
    RetentionConfig,
    RowsConfig,
    RunConfig,
    ScoringConfig,
    Section,
    StrategyConfig,
    TrainingConfig,
)


class SequenceDataConfig(RowsConfig):
    """The rows of each task."""

    train_rows: int = Field(default=2400, ge=1)
    """At most this many rows of a task are learned from, drawn by the seed."""
    test_rows: int = Field(default=100, ge=1)
    """At most this many questions of a task are asked."""


class SequenceMethodConfig(Section):
    """Which adapter learns, and what becomes of it between tasks."""

    name: MethodName = "secura"
    """A method of `secura train`, which is also told there where none is named."""
    adapter: dict[str, Any] = Field(default_factory=dict)
    """Settings of the adapter that differ from the method's own."""
    calibration: str | None = None
    """File or task of what must be kept, for corda and for an adapter with selection=activation, which read it first;
    null is the bundled model's own knowledge."""
    fold_every: int | Literal["method"] | None = "method"
    """Steps between folds inside a task, null for none; method is what the method does by itself."""
    boundary: Boundary | Literal["method"] = "method"
    """fold puts a task's change into the ledger, keep goes on with the adapter, anew merges it and begins another."""


class SequenceRetentionConfig(RetentionConfig):
    """Which knowledge must not be lost; asked for after each task, so fewer questions than of one run."""

    per_family: int = Field(default=20, ge=1)
    """Questions per field of knowledge, drawn by the seed."""


class SequenceConfig(Section):
    """One sequence: tasks in order, with one method and one strategy."""

    model: ModelConfig = ModelConfig()
    """The model to start from."""
    tasks: list[str] | None = None
    """Names of bundled or catalogue tasks, or files, in order; null is 16 bundled tasks."""
    order_seed: int | None = Field(default=None, ge=0)
    """Seed of a permutation of the tasks; null keeps the order as it is written."""
    data: SequenceDataConfig = SequenceDataConfig()
    """The rows of each task."""
    method: SequenceMethodConfig = SequenceMethodConfig()
    """Which adapter learns, and what becomes of it between tasks."""
    strategy: StrategyConfig = StrategyConfig()
    """What is done against forgetting, besides the adapter."""
    training: TrainingConfig = TrainingConfig()
    """The steps of each task: 100 where neither training.steps nor training.epochs is set."""
    retention: SequenceRetentionConfig = SequenceRetentionConfig()
    """Which knowledge must not be lost."""
    scoring: ScoringConfig = ScoringConfig()
    """How answers are scored."""
    score_unseen: bool = True
    """Whether tasks that are still to come are asked too."""
    out: str | None = None
    """Folder of the sequence; null is a new one in runs/."""


LearningConfig = RunConfig | SequenceConfig
"""What may be learned: one task, or several in order."""
