"""All settings of a sequence of tasks, each with its meaning."""

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
    """How many rows of a task are learned, at most; drawn by the seed."""
    test_rows: int = Field(default=100, ge=1)
    """How many questions of a task are asked, at most."""


class SequenceMethodConfig(Section):
    """Which adapter learns, and what becomes of it between tasks."""

    name: MethodName = "secura"
    """A method of `secura train`."""
    adapter: dict[str, Any] = Field(default_factory=dict)
    """Settings of the adapter that differ from the method's defaults."""
    calibration: str | None = None
    """File or task with what must be kept; corda, and adapters with selection=activation, read it before training. Null
    is the bundled model's own knowledge."""
    fold_every: int | Literal["method"] | None = "method"
    """Steps between folds inside a task, null for none; method is the method's own default."""
    boundary: Boundary | Literal["method"] = "method"
    """fold stores a task's change in the ledger, keep continues with the adapter, anew merges it and starts a new
    one."""


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
    """Seed that shuffles the tasks; null keeps the written order."""
    data: SequenceDataConfig = SequenceDataConfig()
    """The rows of each task."""
    method: SequenceMethodConfig = SequenceMethodConfig()
    """Which adapter learns, and what becomes of it between tasks."""
    strategy: StrategyConfig = StrategyConfig()
    """What is done against forgetting, besides the adapter."""
    training: TrainingConfig = TrainingConfig()
    """The steps of each task: 100 if neither training.steps nor training.epochs is set."""
    retention: SequenceRetentionConfig = SequenceRetentionConfig()
    """Which knowledge must not be lost."""
    scoring: ScoringConfig = ScoringConfig()
    """How answers are scored."""
    score_unseen: bool = True
    """Whether later tasks are asked too."""
    out: str | None = None
    """Folder of the sequence; null is a new one in runs/."""


LearningConfig = RunConfig | SequenceConfig
"""What may be learned: one task, or several in order."""
