"""What several processes cannot do together, refused before anything is loaded."""

import os
from importlib.util import find_spec

from secura.errors import ConfigError
from secura.experiments.methods.adapters import reads_texts_first
from secura.experiments.settings.run import RunConfig
from secura.experiments.settings.sequence import LearningConfig, SequenceConfig
from secura.training.processes import Sharding, computes_on_cpu, process_count, sharding

_WHOLE_WEIGHTS_ONLY = ("dora", "corda", "osf")
"""Methods of PEFT that read or split a weight where FSDP2 and ZeRO-3 have left a part of it."""


def check_processes(config: LearningConfig) -> None:
    """Refuse a run that the launched processes cannot share.

    Raises:
        ConfigError: naming the setting, of the run or of the launcher, and the way out.
    """
    count = process_count()
    if count == 1:
        return
    if isinstance(config, SequenceConfig):
        raise ConfigError(
            f"{count} processes were launched, but a sequence is learned by one; start it without a launcher."
        )
    may_share = config.strategy.name == "own_text" and sharding() in ("none", "fsdp2")
    if config.strategy.name != "sequential" and not may_share:
        raise ConfigError(
            f"strategy.name is {config.strategy.name}, which several processes cannot share; start one process, "
            "leave it out, or use own_text without sharding or under FSDP2."
        )
    if config.retention.keep is not None and sharding() not in ("none", "fsdp2"):
        raise ConfigError(
            f"retention.keep is {config.retention.keep:g}, which has not been tried under DeepSpeed; use plain data "
            "parallelism or FSDP2, or start one process."
        )
    for name in ("packing", "padding_free", "eval_every"):
        if getattr(config.training, name):
            raise ConfigError(f"training.{name} is set, which {count} processes cannot do together yet; leave it out.")
    if config.training.learning_rate == "auto":
        raise ConfigError(
            f"training.learning_rate is auto, which one process alone can try, not {count}; set a number."
        )
    rows = config.training.batch_size
    if rows % count:
        below, above = rows // count * count, (rows // count + 1) * count
        near = f"{below} or {above}" if below else str(above)
        raise ConfigError(
            f"training.batch_size is {rows}, which {count} processes cannot share evenly; it counts the rows of all "
            f"processes together: set it to {near}, or start another number of processes."
        )
    if config.model.device == "cpu" and not computes_on_cpu():
        raise ConfigError(
            "model.device is cpu, but the processes were launched for GPUs; set ACCELERATE_USE_CPU=true for them, or "
            "model.device to auto."
        )
    kind = sharding()
    if kind.startswith("fsdp"):
        _check_fsdp(config, kind)
    if kind.startswith("zero"):
        _check_deepspeed(config, kind)


def _check_fsdp(config: RunConfig, kind: Sharding) -> None:
    if kind == "fsdp1":
        raise ConfigError("fsdp_version is 1, whose flat parameters hide each layer's weight; set fsdp_version to 2.")
    if os.environ.get("FSDP_STATE_DICT_TYPE") != "FULL_STATE_DICT":
        raise ConfigError(
            f"fsdp_state_dict_type is {os.environ.get('FSDP_STATE_DICT_TYPE', 'not set')}, so a checkpoint would hold "
            "no adapter to resume from; set it to FULL_STATE_DICT."
        )
    if os.environ.get("FSDP_CPU_RAM_EFFICIENT_LOADING", "false").lower() == "true":
        raise ConfigError(
            "fsdp_cpu_ram_efficient_loading is true, so one process alone would know the weights that an adapter is "
            "built from; set it to false."
        )
    _check_method(config, "FSDP2")


def _check_deepspeed(config: RunConfig, kind: Sharding) -> None:
    if find_spec("deepspeed") is None:
        raise ConfigError("the processes were launched for DeepSpeed, which is not installed; pip install deepspeed.")
    if os.environ.get("ACCELERATE_USE_CPU", "false").lower() == "true":
        raise ConfigError(
            "ACCELERATE_USE_CPU is true, with which accelerate passes DeepSpeed over; leave it out, and on a machine "
            "without GPUs DeepSpeed uses the CPU."
        )
    every = config.method.fold_every
    if every is not None:
        raise ConfigError(
            f"method.fold_every is {every}, but DeepSpeed keeps a copy of its own of each trained weight, and the "
            "next step would undo what a fold sets to 0; set it to null, or use FSDP2."
        )
    if kind == "zero3":
        _check_method(config, "ZeRO-3")
        if reads_texts_first(config.method.name, config.method.adapter):
            raise ConfigError(
                "method.adapter.selection is activation, for which the base reads texts while its weights are whole, "
                "and ZeRO-3 divides them as they are loaded; set it to least, or use FSDP2."
            )


def _check_method(config: RunConfig, name: str) -> None:
    if config.method.name in _WHOLE_WEIGHTS_ONLY:
        raise ConfigError(
            f"method {config.method.name} needs each weight whole, and {name} divides them among processes; train it "
            "with plain data parallelism, or choose another method."
        )
