"""What settings cannot do together, refused before a file is read or a model loaded.

One check for `secura train`, `secura sequence` and each run of a grid. What depends on the rows or on
the model is refused where these are read: see `secura.experiments.run.prepare`.
"""

from collections.abc import Mapping
from typing import Any

from secura.errors import ConfigError
from secura.experiments.data import NO_RETENTION
from secura.experiments.methods.adapters import adapter_config, reads_texts_first
from secura.experiments.methods.strategies import make_strategy
from secura.experiments.settings.names import CANNOT_FOLD, Boundary, MethodName, StrategyName
from secura.experiments.settings.run import MethodConfig, RunConfig
from secura.experiments.settings.sequence import LearningConfig, SequenceConfig, SequenceMethodConfig

_ONE_TASK_ALONE = ("tokens_per_step", "packing", "padding_free", "eval_every", "best", "patience", "report_to")
_WHOLE_WEIGHTS: tuple[MethodName, ...] = ("full", "corda", "osf", "mica")
"""Methods that a base in fewer bits has nothing for."""
_NEEDS_EARLIER_TASKS: tuple[StrategyName, ...] = ("replay", "ewc", "o_lora")
"""Strategies that protect earlier tasks, and so do nothing in a run of one."""

_OF_EARLIER_TASKS = ("task_texts", "task_share", "task_budget_nats", "prompt_weight")
"""Settings of own_text that do nothing in a run of one task."""


def check_settings(config: LearningConfig) -> None:
    """Refuse settings that cannot work, whatever the rows and the model.

    Args:
        config: with the method's defaults in place of what was left open.

    Raises:
        ConfigError: naming the setting, its value and the way out.
    """
    _check_method(config.method)
    if config.model.in_fewer_bits and config.method.name in _WHOLE_WEIGHTS:
        raise ConfigError(
            f"method {config.method.name} reads or changes the base's weights themselves, which model.load_in_4bit and "
            "load_in_8bit leave in few bits; choose lora, dora or one of secura's methods."
        )
    if isinstance(config, SequenceConfig):
        boundary = config.method.boundary
        assert boundary != "method"
        if config.training.learning_rate == "auto":
            raise ConfigError("training.learning_rate is auto, which secura train alone can try; set a number.")
        if config.retention.keep is not None:
            raise ConfigError("retention.keep is for secura train; in a sequence, set strategy.name to own_text.")
        for name in _ONE_TASK_ALONE:
            if getattr(config.training, name):
                raise ConfigError(f"training.{name} is for secura train, which learns one task; leave it out.")
        _check_boundary(config.method.name, boundary)
    else:
        boundary = "keep"
        _check_one_task(config)
    _check_strategy(config, boundary)
    for name in ("keep", "min_retention"):
        if getattr(config.retention, name) is not None and config.retention.path == NO_RETENTION:
            raise ConfigError(f"retention.{name} needs questions to measure it by; leave out --retain none.")


def _check_evaluations(config: RunConfig) -> None:
    training = config.training
    if training.best is None:
        if training.patience is not None:
            raise ConfigError("training.patience waits for a better evaluation; set training.best too.")
        return
    if training.eval_every is None:
        raise ConfigError(f"training.best is {training.best}, but nothing is evaluated; set training.eval_every.")
    if config.method.fold_every is not None:
        raise ConfigError(
            f"training.best is {training.best}, which goes back to an earlier step, and a fold cannot be gone back on; "
            "set method.fold_every to null."
        )
    if config.retention.keep is not None:
        raise ConfigError(
            f"training.best is {training.best}, but retention.keep itself chooses how much of what was learned is "
            "used, and certifies it by questions that nothing was chosen by; leave training.best out."
        )
    if training.best == "retention" and config.retention.path == NO_RETENTION:
        raise ConfigError("training.best is retention, which needs questions; leave out --retain none.")


def _check_packing(config: RunConfig) -> None:
    training = config.training
    for name in ("packing", "padding_free"):
        if getattr(training, name) and config.strategy.name not in ("sequential", "own_text"):
            raise ConfigError(
                f"training.{name} lets rows follow one another, and strategy {config.strategy.name} goes by rows that "
                "are padded; use own_text, or leave it out."
            )


def _check_method(method: MethodConfig | SequenceMethodConfig) -> None:
    if method.name == "full" and method.adapter:
        raise ConfigError("method full has no adapter, so method.adapter must be empty.")
    if method.name != "full":
        adapter_config(method.name, method.adapter)
    if method.calibration is not None and not reads_texts_first(method.name, method.adapter):
        raise ConfigError(
            f"method.calibration is for corda, and for an adapter with selection=activation, and method.name is "
            f"{method.name}; leave it out."
        )
    every = method.fold_every
    if every is None:
        return
    if method.name == "full":
        raise ConfigError("method full has nothing to fold; leave out method.fold_every.")
    if method.name in CANNOT_FOLD:
        raise ConfigError(
            f"method {method.name} is PEFT's own and cannot fold; leave out method.fold_every, "
            "or choose cabr-lora, bounded-lora or secura."
        )
    if isinstance(every, int) and every < 1:
        raise ConfigError(f"method.fold_every is {every}; give a number of steps, at least 1.")


def _check_one_task(config: RunConfig) -> None:
    if config.method.name == "full" and config.method.start_from is not None:
        raise ConfigError("method full has no adapter to start from; leave out method.start_from.")
    if config.strategy.name in _NEEDS_EARLIER_TASKS:
        raise ConfigError(
            f"strategy {config.strategy.name} protects earlier tasks, and a run learns one; use own_text, kl_anchor or "
            "lwf, mix real rows in with data.mix, or learn several with secura sequence."
        )
    of_tasks = [name for name in config.strategy.settings if name in _OF_EARLIER_TASKS]
    if config.strategy.name == "own_text" and of_tasks:
        raise ConfigError(
            f"strategy.settings.{of_tasks[0]} is about earlier tasks, and a run learns one; leave it out, or learn "
            "several with secura sequence."
        )
    if config.retention.keep is not None and config.method.name == "corda":
        raise ConfigError(
            "method corda begins by changing the base's weights, so that what it learns cannot be scaled back, as "
            "retention.keep may have to; choose lora or another method."
        )
    _check_evaluations(config)
    _check_packing(config)
    if config.model.path is not None and config.data.path is None:
        raise ConfigError("your own model needs your own data; name a file with --data.")


def _check_strategy(config: LearningConfig, boundary: Boundary) -> None:
    strategy = config.strategy
    _check_goes_together(strategy.name, strategy.settings, config.method.name, boundary)
    make_strategy(strategy.name, strategy.settings, seed=config.training.seed)
    if strategy.name != "sequential" and config.training.precision == "fp16":
        raise ConfigError(
            f"training.precision is fp16, which scales the loss, and the term of strategy {strategy.name} would not "
            "be scaled with it; set training.precision to bf16."
        )


def _check_goes_together(
    strategy: StrategyName, settings: Mapping[str, Any], method: MethodName, boundary: Boundary
) -> None:
    """Refuse combinations that would not do what they say.

    Raises:
        ConfigError: naming both sides and a combination that works.
    """
    if strategy == "kl_anchor" and method in ("full", "corda"):
        raise ConfigError(
            f"strategy kl_anchor needs an adapter that leaves the base when switched off, and method {method} has "
            "none; use lwf."
        )
    asks_base = [name for name in ("live_teacher", "masked_answers") if settings.get(name)]
    if strategy == "own_text" and asks_base and method in ("full", "corda"):
        raise ConfigError(
            f"strategy.settings.{asks_base[0]} needs an adapter that leaves the base when switched off, and method "
            f"{method} has none; leave it out."
        )
    if strategy == "own_text" and asks_base and boundary == "anew":
        raise ConfigError(
            f"strategy.settings.{asks_base[0]} asks the model with its adapter off, which at method.boundary anew is "
            "the model after the task before and not the base; leave it out."
        )
    if strategy == "ewc":
        weights = settings.get("protects") == "effective_weight"
        if weights and method in ("dora", "mica", "corda", "osf", "full"):
            raise ConfigError(
                f"strategy.settings.protects is effective_weight, which is not known for method {method}; protect "
                "the parameters, or choose lora or one of secura's methods."
            )
        if not weights and boundary != "keep":
            raise ConfigError(
                f"strategy ewc holds parameters in place, but at method.boundary {boundary} they begin again; set "
                "method.boundary to keep, or strategy.settings.protects to effective_weight."
            )
    if strategy == "ilora" and boundary != "keep":
        raise ConfigError(
            f"strategy ilora averages the adapter over all tasks, but at method.boundary {boundary} it begins again; "
            "set method.boundary to keep."
        )
    if strategy == "o_lora" and (method != "lora" or boundary != "anew"):
        raise ConfigError(
            f"strategy o_lora gives each task a LoRA of its own, but the method is {method} and method.boundary "
            f"{boundary}; set method.name to lora and method.boundary to anew."
        )


def _check_boundary(method: MethodName, boundary: Boundary) -> None:
    """Refuse a boundary that a method cannot do."""
    if boundary == "fold" and method in CANNOT_FOLD:
        raise ConfigError(
            f"method {method} cannot fold; set method.boundary to keep or anew, or choose one of secura's methods."
        )
    if boundary != "anew" and method == "corda":
        raise ConfigError(
            f"method corda starts each adapter from the model as it is, so method.boundary cannot be {boundary}; "
            "set method.boundary to anew."
        )
    if boundary == "anew" and method == "osf":
        raise ConfigError("method osf cannot be merged and begun anew; set method.boundary to keep.")
    if boundary == "anew" and method == "full":
        raise ConfigError("method full has no adapter to begin anew; set method.boundary to keep.")
