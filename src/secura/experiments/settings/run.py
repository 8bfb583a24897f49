"""All settings of a run, each with its meaning.

Later layers win: the defaults, the YAML file, `--set a.b=c`, and the flags.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from secura.experiments.settings.names import MethodName, StrategyName


class Section(BaseModel):
    """Part of a configuration: frozen, typed strictly, and without unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class ModelConfig(Section):
    """The model to start from."""

    path: str | None = None
    """Folder, GGUF file or hub id of the model, or smollm2; null is the bundled model."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the weights in memory; auto is the stored type. Adapters are always float32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto is the GPU if there is one."""
    load_in_4bit: bool = False
    """Whether to load the base in 4 bits (NF4, as in QLoRA) while an adapter is trained; needs bitsandbytes."""
    load_in_8bit: bool = False
    """Whether to load the base in 8 bits; needs bitsandbytes."""
    attn_implementation: str | None = None
    """How attention is computed, by transformers' name: eager, sdpa, flash_attention_2, flex_attention or a kernel of
    the hub; null is transformers' own choice."""

    @property
    def in_fewer_bits(self) -> bool:
        """Whether the base is quantized as it is loaded."""
        return self.load_in_4bit or self.load_in_8bit


class RowsConfig(Section):
    """How rows are held out and fitted to the model."""

    test_share: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Share of the rows of a file to hold out if no test questions are given."""
    max_length: int | None = Field(default=None, ge=2)
    """Longest allowed row in tokens; null is the model's context."""
    too_long: Literal["refuse", "drop", "truncate"] = "refuse"
    """What to do with longer rows; truncate cuts the beginning of the prompt."""
    turns: Literal["all", "last"] = "all"
    """Which of the assistant's turns of a chat are learned; questions are always asked about the last."""
    columns: dict[str, str] = {}
    """Names of the file's columns, such as {prompt: question_text, completion: reply}: secura's name first."""


class DataConfig(RowsConfig):
    """What to learn."""

    path: str | None = None
    """File (JSON Lines, JSON, CSV or Parquet), folder of files, hub data set (org/name:config:split) or name of a task;
    null is the bundled task."""
    split: str = "train"
    """Split of a folder, or of a hub data set whose name does not give one."""
    mix: dict[str, Annotated[float, Field(gt=0, lt=1)]] = {}
    """Other files, data sets or tasks to learn beside `path`, such as rows to replay, each with its share of all rows:
    {general.jsonl: 0.2}. Rows are drawn by the seed and repeated if there are too few; none are held out."""
    test_path: str | None = None
    """File, folder or hub data set on which gain is measured; null holds out a share of `path`."""
    test_rows: int = Field(default=200, ge=0)
    """How many rows are held out or asked, at most."""


class MethodConfig(Section):
    """How to learn it."""

    name: MethodName = "secura"
    """One of secura, secura-paper, cabr-lora, cur-lora, bounded-lora, lora, dora, mica, corda, osf, full. The default
    is secura on the bundled model, and LoRA on every linear layer on any other."""
    adapter: dict[str, Any] = {}
    """Settings of the adapter that differ from the method's defaults, such as r, tau or target_modules."""
    calibration: str | None = None
    """File or task with what must be kept; corda, and adapters with selection=activation, read it before training. Null
    is the bundled model's own knowledge and, on any other model and not for corda, text that the base writes itself."""
    fold_every: int | Literal["task", "method"] | None = "method"
    """Steps between folds, task for one at the end, null for none; method is the method's own default."""
    start_from: str | None = None
    """Folder of an adapter of the same model to train further; null starts a new one."""


class TrainingConfig(Section):
    """The steps."""

    steps: int | None = Field(default=None, ge=1)
    """Optimizer steps; null counts epochs instead."""
    epochs: float | None = Field(default=None, gt=0)
    """Passes over the data if steps is null; null is 1, or the bundled task's own number of steps."""
    batch_size: int = Field(default=16, ge=1)
    """Rows per forward pass."""
    gradient_accumulation: int = Field(default=1, ge=1)
    """Forward passes per step."""
    tokens_per_step: int | None = Field(default=None, ge=1)
    """Tokens that a step should have: sets gradient_accumulation from the mean length of a row. Only for secura
    train."""
    packing: bool = False
    """Whether several short rows share one sequence of data.max_length tokens; no row sees another. TRL packs them."""
    padding_free: bool = False
    """Whether the rows of a forward pass follow each other without padding; with packing they always do."""
    optimizer: str | None = None
    """Optimizer by transformers' name, such as adafactor, paged_adamw_8bit or lion_8bit; null is AdamW."""
    learning_rate: Annotated[float, Field(gt=0)] | Literal["auto"] | None = None
    """Peak learning rate; null is the method's default, auto tries three for a few steps each."""
    warmup: float = Field(default=0.03, ge=0)
    """Warm-up: a number of steps if 1 or more, a share of all steps if below 1."""
    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    """How the learning rate falls."""
    max_grad_norm: Annotated[float, Field(gt=0)] | None = None
    """Gradients are clipped to this norm; null is the method's default: 1, and 0.05 on the natural scale."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's weight decay."""
    seed: int = Field(default=0, ge=0)
    """Seed of the held-out rows, the order of the data and the adapter's start."""
    save_every: int = Field(default=100, ge=1)
    """Steps between checkpoints; one is also written at the end and after Ctrl-C."""
    eval_every: int | None = Field(default=None, ge=1)
    """Steps between evaluations: the loss of held-out rows, and the share of what the base knew that is still answered
    right. Null evaluates only before and after. Only for secura train."""
    best: Literal["gain", "retention"] | None = None
    """Which evaluation becomes the result; null is the last. gain: the lowest held-out loss. retention: the lowest loss
    of those that keep `best_keeps`, or, if none does, the one that keeps most. Each evaluation saves a checkpoint."""
    best_keeps: float = Field(default=0.95, ge=0.0, le=1.0)
    """Share of what the base knew that an evaluation must keep, if best is retention."""
    patience: int | None = Field(default=None, ge=1)
    """Evaluations in a row without a better one after which training stops; needs best."""
    report_to: list[Literal["trackio", "wandb", "tensorboard"]] = []
    """Trackers that get the numbers of steps and evaluations too; each needs its package."""
    gradient_checkpointing: bool = False
    """Computes activations twice to keep fewer in memory."""
    stop_at_divergence: bool = True
    """Ends a run whose loss rises more than 2 nats, and more than half, above the first loss."""
    precision: Literal["as-stored", "bf16", "fp16", "auto"] = "as-stored"
    """Type of the arithmetic; bf16 and fp16 are mixed precision. auto is bf16 where the device has instructions for it,
    else as-stored."""

    @property
    def computed_in(self) -> Literal["as-stored", "bf16", "fp16"]:
        """The precision of a prepared run, which has found out what `auto` is here."""
        assert self.precision != "auto"
        return self.precision


class RetentionConfig(Section):
    """Which knowledge must not be lost."""

    path: str | None = None
    """Files of questions and names of tasks, separated by commas, asked before and after; none asks nothing. Null is
    the bundled model's own questions, and everyday for any other model."""
    per_family: int = Field(default=50, ge=1)
    """Questions per field of knowledge, drawn by the seed."""
    keep: float | None = Field(default=None, ge=0.0, lt=1.0)
    """Share of the base's right answers to keep: the model is kept close to the base on the base's own text, scaled
    back if that is not enough, and certified. The exit code is 2 if this share is not shown to be kept. Only for secura
    train."""
    min_retention: float | None = Field(default=None, ge=0.0, lt=1.0)
    """Share of the base's knowledge that must be shown to be kept; otherwise the exit code is 2."""


class StrategyConfig(Section):
    """What is done against forgetting, besides the adapter."""

    name: StrategyName = "sequential"
    """One of sequential, replay, ewc, ilora, kl_anchor, lwf, o_lora, own_text; replay, ewc and o_lora need several
    tasks. With retention.keep the default is own_text."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Its settings, such as strength, share or buffer_examples."""


class ScoringConfig(Section):
    """How answers are scored."""

    batch_size: int = Field(default=32, ge=1)
    """Questions per forward pass."""
    max_answer_tokens: int = Field(default=64, ge=1)
    """Longer free answers are not generated; they are scored only by nats per token."""


class RunConfig(Section):
    """One run of `secura train`."""

    model: ModelConfig = ModelConfig()
    """The model to start from."""
    data: DataConfig = DataConfig()
    """What to learn."""
    method: MethodConfig = MethodConfig()
    """How to learn it."""
    strategy: StrategyConfig = StrategyConfig()
    """What is done against forgetting, besides the adapter."""
    training: TrainingConfig = TrainingConfig()
    """The steps."""
    retention: RetentionConfig = RetentionConfig()
    """Which knowledge must not be lost."""
    scoring: ScoringConfig = ScoringConfig()
    """How answers are scored."""
    out: str | None = None
    """Folder for the adapter, the checkpoints and the report; null is a new one in runs/."""
    push_to_hub: str | None = None
    """Repository of the Hub, such as me/my-adapter, to which the adapter or model is uploaded with its card at the end;
    created as a private one if it does not exist."""
