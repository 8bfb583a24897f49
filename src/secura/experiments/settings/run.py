"""Everything that may be set about a run, each with its meaning.

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
    """Folder, GGUF file or hub id of the model, or smollm2; null is the bundled one."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the weights in memory; auto is as stored. Adapters are float32 in any case."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto is the GPU where there is one."""
    load_in_4bit: bool = False
    """Whether the base is held in 4 bits (NF4, as in QLoRA) while an adapter is trained; needs bitsandbytes."""
    load_in_8bit: bool = False
    """Whether it is held in 8 bits."""
    attn_implementation: str | None = None
    """How attention is computed, as transformers names it: eager, sdpa, flash_attention_2, flex_attention or a kernel
    of the hub; null is transformers' own choice."""

    @property
    def in_fewer_bits(self) -> bool:
        """Whether the base is quantized as it is loaded."""
        return self.load_in_4bit or self.load_in_8bit


class RowsConfig(Section):
    """How rows are held out and fitted to the model."""

    test_share: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Share of the rows of a file to hold out where no test questions are given."""
    max_length: int | None = Field(default=None, ge=2)
    """Longest row in tokens; null is the model's context."""
    too_long: Literal["refuse", "drop", "truncate"] = "refuse"
    """What happens to rows longer than that; truncate cuts the beginning of the prompt."""
    turns: Literal["all", "last"] = "all"
    """Which of the assistant's turns of a chat are learned; the last is what is asked in any case."""
    columns: dict[str, str] = {}
    """Columns of the file by the names that rows are read by, such as {prompt: question_text, completion: reply}."""


class DataConfig(RowsConfig):
    """What to learn."""

    path: str | None = None
    """File (JSON Lines, JSON, CSV or Parquet), folder of files, hub data set (org/name:config:split) or name of a task;
    null is the bundled task."""
    split: str = "train"
    """Split of a folder, or of a hub data set whose name ends in none."""
    mix: dict[str, Annotated[float, Field(gt=0, lt=1)]] = {}
    """Other files, data sets or tasks that are learned beside `path`, such as what is to be replayed, by the share of
    all rows that each has: {general.jsonl: 0.2}. Drawn by the seed, repeated where too few; nothing is held out."""
    test_path: str | None = None
    """File, folder or hub data set that gain is measured on; null holds out a share of `path`."""
    test_rows: int = Field(default=200, ge=0)
    """At most this many rows are held out or asked."""


class MethodConfig(Section):
    """How to learn it."""

    name: MethodName = "secura"
    """One of secura, secura-paper, cabr-lora, cur-lora, bounded-lora, lora, dora, mica, corda, osf, full. Where none is
    named, secura on the bundled model, and LoRA on every linear layer on any other."""
    adapter: dict[str, Any] = {}
    """Settings of the adapter that differ from the method's own, such as r, tau or target_modules."""
    calibration: str | None = None
    """File or task of what must be kept, for corda and for an adapter with selection=activation, which read it first;
    null is the bundled model's own knowledge."""
    fold_every: int | Literal["task", "method"] | None = "method"
    """Steps between folds, task for one at the end, null for none; method is what the method does by itself."""
    start_from: str | None = None
    """Folder of an adapter to go on training, made for the same model; null starts a new one."""


class TrainingConfig(Section):
    """The steps."""

    steps: int | None = Field(default=None, ge=1)
    """Optimizer steps; null counts epochs instead."""
    epochs: float | None = Field(default=None, gt=0)
    """Passes over the data where steps is null; null is 1, or the bundled task's own number of steps."""
    batch_size: int = Field(default=16, ge=1)
    """Rows a forward pass."""
    gradient_accumulation: int = Field(default=1, ge=1)
    """Forward passes a step."""
    tokens_per_step: int | None = Field(default=None, ge=1)
    """Tokens that a step should have: sets gradient_accumulation, by the mean length of a row. For secura train."""
    packing: bool = False
    """Whether short rows share one of data.max_length tokens, none of which sees another's; TRL packs them."""
    padding_free: bool = False
    """Whether the rows of a forward pass follow one another without padding; with packing they do in any case."""
    optimizer: str | None = None
    """As transformers names it, such as adafactor, paged_adamw_8bit or lion_8bit; null is its own choice, AdamW."""
    learning_rate: Annotated[float, Field(gt=0)] | Literal["auto"] | None = None
    """Peak learning rate; null is the method's own, auto tries three for a few steps each."""
    warmup: float = Field(default=0.03, ge=0)
    """Warm-up in steps where 1 or more, a share of all steps below 1."""
    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    """How the learning rate falls."""
    max_grad_norm: Annotated[float, Field(gt=0)] | None = None
    """Gradients longer than this are shortened to it; null is the method's own, 1, and 0.05 on the natural scale."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's weight decay."""
    seed: int = Field(default=0, ge=0)
    """Fixes the held-out rows, the order of the data and the adapter's start."""
    save_every: int = Field(default=100, ge=1)
    """Steps between checkpoints; the end and Ctrl-C write one too."""
    eval_every: int | None = Field(default=None, ge=1)
    """Steps between evaluations: the loss of held-out rows, and the share of what the base knew that is still answered
    right. Null evaluates before and after alone. For secura train."""
    best: Literal["gain", "retention"] | None = None
    """Which evaluation is handed out, null the last: gain is that of the lowest held-out loss; retention is the same of
    those that keep `best_keeps`, or that which keeps most where none does. Saves a checkpoint with each evaluation."""
    best_keeps: float = Field(default=0.95, ge=0.0, le=1.0)
    """Share of what the base knew that an evaluation must keep, for best retention."""
    patience: int | None = Field(default=None, ge=1)
    """Evaluations in a row without a better one after which training stops; needs best."""
    report_to: list[Literal["trackio", "wandb", "tensorboard"]] = []
    """Where the figures of steps and evaluations go besides the run's folder; each needs its package."""
    gradient_checkpointing: bool = False
    """Computes activations twice to hold fewer of them."""
    stop_at_divergence: bool = True
    """Ends a run whose loss climbs 2 nats above where it began, and half as high again."""
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
    """Files of questions asked before and after, and names of tasks, parted by commas; none asks nothing. Null is the
    bundled model's own questions, and everyday ones for any other model."""
    per_family: int = Field(default=50, ge=1)
    """Questions per field of knowledge, drawn by the seed."""
    keep: float | None = Field(default=None, ge=0.0, lt=1.0)
    """For secura train, share of what the base answers right that is to be kept: training is held to the base's own
    text, scaled back where that is not enough, and certified; the run ends with exit code 2 if that much is not shown
    to be kept."""
    min_retention: float | None = Field(default=None, ge=0.0, lt=1.0)
    """Share of base knowledge that must be shown to be kept, or the run ends with exit code 2."""


class StrategyConfig(Section):
    """What is done against forgetting, besides the adapter."""

    name: StrategyName = "sequential"
    """One of sequential, replay, ewc, ilora, kl_anchor, lwf, o_lora, own_text; replay, ewc and o_lora need several
    tasks. With retention.keep it is own_text unless another is named."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Its settings, such as strength, share or buffer_examples."""


class ScoringConfig(Section):
    """How answers are scored."""

    batch_size: int = Field(default=32, ge=1)
    """Questions a forward pass."""
    max_answer_tokens: int = Field(default=64, ge=1)
    """Free answers longer than this are scored by nats per token only, not generated."""


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
    """Repository of the Hub, such as me/my-adapter, that the adapter or model goes to with its card when the run is
    done; made private where it does not exist."""
