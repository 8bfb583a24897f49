"""What is kept after each task of a sequence, the model as it was then, sealed; and how a stage is loaded again.

after-03-own_things/
├── adapter/ or model/   what the next task starts from
├── strategy/            what the strategy remembers
├── bank/                for own_text, the model's own texts of the task, and what it thought of them
└── seal.json            checksums of all of it, written before the folder gets its name
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase, set_seed

from secura.continual.own_text import OwnText
from secura.continual.strategy import Strategy
from secura.errors import ConfigError
from secura.evaluation.scoring import Model, context_length
from secura.experiments.files import ADAPTER_FOLDER, MODEL_FOLDER
from secura.experiments.methods.adapters import attach_adapter, go_on_with_adapter
from secura.experiments.methods.strategies import make_strategy
from secura.experiments.models.base_record import base_fingerprint, check_base
from secura.experiments.models.loading import load_model, model_source
from secura.experiments.run.rows import calibration_texts, longest_row
from secura.experiments.settings.sequence import SequenceConfig
from secura.file_names import file_name
from secura.training.checkpoint_seal import seal, seal_holds
from secura.whole_files import write_folder

STRATEGY_FOLDER = "strategy"
BANK_FOLDER = "bank"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A model as it is after a stage, ready to train on."""

    model: Model
    """The model with its adapter."""
    tokenizer: PreTrainedTokenizerBase
    """The model's tokenizer."""
    strategy: Strategy
    """What is done against forgetting, with all that it remembers."""
    max_tokens: int
    """The longest row: `data.max_length`, or the context."""


def load_stage(config: SequenceConfig, out: Path, stage: int) -> Stage:
    """Load what the next task starts from; stage 0 is the base with a new adapter.

    Args:
        config: of the sequence, its tasks in the order they are learned.
        out: folder of the sequence.
        stage: how many tasks have been learned.

    Raises:
        ConfigError: if the stage is not what was sealed.
    """
    assert config.tasks is not None
    method, seed = config.method, config.training.seed
    strategy = make_strategy(config.strategy.name, config.strategy.settings, seed=seed)
    folder = stage_folder(out, stage, config.tasks[stage - 1]) if stage else None
    whole = None if folder is None else folder / MODEL_FOLDER
    if folder is not None:
        if not seal_holds(folder):
            raise ConfigError(f"{folder} is damaged or was changed, so it is not used; restore it as it was.")
        strategy.load(folder / STRATEGY_FOLDER)
    if isinstance(strategy, OwnText):
        stages = (stage_folder(out, number, config.tasks[number - 1]) for number in range(1, stage + 1))
        banks = [each / BANK_FOLDER for each in stages if (each / BANK_FOLDER).is_dir()]
        strategy.hold_to_tasks(banks, learns_prompts=writes_texts(strategy, config, stage + 1))
    merged = whole is not None and whole.is_dir()
    path = str(whole) if merged else config.model.path
    model, tokenizer = load_model(config.model.model_copy(update={"path": path}))
    max_tokens = longest_row(config.data.max_length, context_length(model, tokenizer))
    if not merged:
        check_base(out, base_fingerprint(model), model_source(config.model))
    if folder is not None and not merged:
        adapted: Model = go_on_with_adapter(model, folder / ADAPTER_FOLDER, method.name, {})
    elif method.name == "full":
        adapted = model.requires_grad_(True)
    else:
        set_seed(seed + stage)
        adapted = attach_adapter(model, method.name, method.adapter, calibration_texts(config, tokenizer, max_tokens))
    return Stage(model=adapted, tokenizer=tokenizer, strategy=strategy, max_tokens=max_tokens)


def writes_texts(strategy: OwnText, config: SequenceConfig, stage: int) -> bool:
    """Whether the model writes texts of the task of a stage: of the last one none, since nothing follows it."""
    assert config.tasks is not None
    return strategy.task_texts != 0 and stage < len(config.tasks)


def load_served(config: SequenceConfig, out: Path, stage: int) -> Stage:
    """Load a stage as it is used: with the weights that the strategy means to be served."""
    loaded = load_stage(config, out, stage)
    loaded.strategy.prepare_to_serve(loaded.model)
    return loaded


def stage_folder(out: Path, stage: int, task: str) -> Path:
    """Where the model after a task lies; stages count from 1."""
    return out / f"after-{_numbered_name(stage, task)}"


def task_folder(out: Path, stage: int, task: str) -> Path:
    """Where a task's own checkpoints and log lie."""
    return out / f"task-{_numbered_name(stage, task)}"


def undone_folder(out: Path, stage: int, task: str) -> Path:
    """Where the last model lies once a task, that of a stage, has been taken out of it."""
    return out / f"without-{_numbered_name(stage, task)}"


def write_stage(folder: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write a stage, seal it, and give it its name."""

    def fill_and_seal(path: Path) -> None:
        fill(path)
        seal(path)

    write_folder(folder, fill_and_seal)


def last_whole_stage(out: Path, tasks: Sequence[str]) -> tuple[int, list[str]]:
    """The last stage to go on from, 0 for none, and the names of damaged ones that were passed over."""
    damaged = []
    for stage in range(len(tasks), 0, -1):
        folder = stage_folder(out, stage, tasks[stage - 1])
        if not folder.is_dir():
            continue
        if seal_holds(folder):
            return stage, damaged
        damaged.append(folder.name)
    return 0, damaged


def _numbered_name(stage: int, task: str) -> str:
    return f"{stage:02d}-{file_name(Path(task).stem if '/' in task else task)}"
