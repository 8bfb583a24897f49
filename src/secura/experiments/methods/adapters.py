"""The methods by name: which adapter each one is, attached to a model or loaded to be trained further."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from peft import LoraConfig, OSFConfig, PeftConfig, PeftModel, PeftType, TaskType, get_peft_model
from peft.tuners.lora.config import CordaConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from secura.adapters.base_guard import BaseGuard
from secura.adapters.secura.config import plain_peft_type
from secura.errors import BaseMismatchError, ConfigError, InputError, SecuraError
from secura.experiments.models.adapter_files import check_adapter_files, incomplete_refused
from secura.experiments.settings.names import MethodName
from secura.training.processes import from_main_process


def adapter_config(method: MethodName, overrides: Mapping[str, Any]) -> PeftConfig:
    """The PEFT configuration of a method.

    Raises:
        ConfigError: for a setting the method does not have, naming the nearest, or a value
            that it refuses.
    """
    if method == "full":
        raise ConfigError("method full has no adapter, so method.adapter and folds do not apply to it.")
    rank = overrides.get("r", 1)
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise ConfigError(f"method.adapter.r is {rank!r}; give a whole number, at least 1.")
    if method == "osf":
        _check_known(OSFConfig, overrides)
        return _built(lambda: OSFConfig(task_type=TaskType.CAUSAL_LM, **overrides), overrides)
    if method in ("lora", "dora", "mica", "corda"):
        _check_known(LoraConfig, overrides)
        settings: dict[str, Any] = {"r": 8, "lora_alpha": 2 * int(overrides.get("r", 8)), **overrides}
        if method == "dora":
            settings["use_dora"] = True
        elif method == "mica":
            settings["init_lora_weights"] = "mica"
        elif method == "corda":
            settings["init_lora_weights"] = "corda"
            settings["corda_config"] = CordaConfig(corda_method="kpm")  # knowledge-preserving mode
        return _built(lambda: LoraConfig(task_type=TaskType.CAUSAL_LM, **settings), overrides)
    from secura.adapters import SecuraConfig

    _check_known(SecuraConfig, overrides)
    return _built(lambda: SecuraConfig.preset(method, **{"task_type": TaskType.CAUSAL_LM, **overrides}), overrides)


def reads_texts_first(method: MethodName, overrides: Mapping[str, Any]) -> bool:
    """Whether the adapter starts from what the base makes of some texts: `corda`, or a selection by activation."""
    return method == "corda" or overrides.get("selection") == "activation"


def _built(build: Any, overrides: Mapping[str, Any]) -> PeftConfig:
    try:
        return build()
    except SecuraError:
        raise
    except (ValueError, TypeError) as problem:
        raise ConfigError(f"method.adapter with {', '.join(overrides)}: {problem}") from problem


def _check_known(kind: Any, overrides: Mapping[str, Any]) -> None:
    known = [field.name for field in fields(kind)]
    for key in overrides:
        if key not in known:
            near = get_close_matches(key, known, n=1, cutoff=0.0)[0]
            raise ConfigError(f"unknown setting method.adapter.{key}; the nearest is method.adapter.{near}.")


def attach_adapter(
    model: PreTrainedModel,
    method: MethodName,
    overrides: Mapping[str, Any],
    calibration: Sequence[Sequence[int]] = (),
) -> PreTrainedModel | PeftModel:
    """Give a model the adapter of a method; for `full`, the model as it is, every weight trainable.

    `calibration` are texts in tokens, for `corda` and `selection="activation"`, which start from what they use least.

    Raises:
        ConfigError: if no layer of the model fits, a rank that the user set exceeds one, or
            there is nothing to read for a method that reads first.
    """
    if method == "full":
        if overrides:
            raise ConfigError("method full has no adapter, so method.adapter must be empty.")
        return model.requires_grad_(True)
    config, rank = adapter_config(method, overrides), overrides.get("r", 1)
    if hasattr(config, "fan_in_fan_out") and "fan_in_fan_out" not in overrides:
        # GPT-2's Conv1D holds its weight as (in, out); PEFT would find out by itself, and warn.
        transposed = any(type(module).__name__ == "Conv1D" for module in model.modules())
        setattr(config, "fan_in_fan_out", transposed)  # noqa: B010 - PeftConfig itself lacks it
    try:
        if method == "corda":
            from secura.adapters.corda import calibrate, name_targets

            assert isinstance(config, LoraConfig)
            for name, weight in name_targets(model, config).items():
                _check_rank_of(name, weight, rank)
            calibrate(model, config, calibration)
        elif reads_texts_first(method, overrides) and model.device.type != "meta":
            from secura.adapters import SecuraConfig, measure_activity

            assert isinstance(config, SecuraConfig)
            measure_activity(model, config, calibration)
            config.activity = from_main_process(lambda: config.activity)  # sums may round otherwise in another process
        adapted = get_peft_model(model, config)
    except SecuraError:
        raise
    except (ValueError, TypeError) as problem:
        if "target" not in str(problem):
            raise ConfigError(f"method.adapter: {problem}") from problem
        names = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if _is_linear(module)}
        raise ConfigError(
            f"no layer to adapt: method.adapter.target_modules is {overrides.get('target_modules')!r}, "
            f"while the layers of this model are {', '.join(sorted(names))}; name some of these."
        ) from problem
    if not any(weight.requires_grad for weight in adapted.parameters()):
        kinds = " and ".join(sorted({type(module).__name__ for module in model.modules() if _is_linear(module)}))
        raise ConfigError(f"method {method} finds nothing to train in this model's {kinds} layers; choose another.")
    if "r" in overrides:
        check_rank(adapted, rank)
    return adapted


def check_rank(adapted: nn.Module, rank: int) -> None:
    """Refuse a rank larger than a layer that it was given to; PEFT takes it without a word."""
    for name, layer in adapted.named_modules():
        if isinstance(layer, BaseTunerLayer):
            weight = layer.get_base_layer().weight
            assert isinstance(weight, Tensor)
            _check_rank_of(name, weight, rank)


def _check_rank_of(name: str, weight: Tensor, rank: int) -> None:
    limit = min(weight.shape)
    if rank > limit:
        size = "×".join(str(length) for length in weight.shape)
        short = name.removeprefix("base_model.model.")
        raise ConfigError(f"method.adapter.r is {rank}, but layer {short} is {size}; r is at most {limit} there.")


def _is_linear(module: nn.Module) -> bool:
    return type(module).__name__ in ("Linear", "Conv1D")


def go_on_with_adapter(
    model: PreTrainedModel, folder: Path, method: MethodName, overrides: Mapping[str, Any]
) -> PeftModel:
    """Load an adapter to train it further.

    Raises:
        ConfigError: if it is of another method, or settings were given that it already has.
        BaseMismatchError: if its shapes are not those of the model's layers.
    """
    if overrides:
        raise ConfigError(f"the adapter in {folder} has its own settings; leave out method.adapter.")
    if method == "corda":
        raise ConfigError("method corda saves a plain LoRA; continue it with the method lora.")
    check_adapter_files(folder)
    expected = adapter_config(method, {})
    try:
        own = PeftConfig.from_pretrained(str(folder))
    except InputError:
        raise
    except Exception as problem:  # PEFT raises whatever a file that is no config leads to
        reason = " ".join(str(problem).split())[:200]
        raise ConfigError(f"the adapter in {folder} cannot be read: {type(problem).__name__}: {reason}") from problem
    same_variant = _variant(own) == _variant(expected)
    if type(own) is not type(expected) or not same_variant:
        kind = plain_peft_type(PeftType(own.peft_type).value)
        raise ConfigError(f"the adapter in {folder} is {kind}, so method.name cannot be {method}.")
    guard = BaseGuard.of(model)
    try:
        with incomplete_refused():
            adapted = PeftModel.from_pretrained(model, str(folder), is_trainable=True)
    except InputError:
        raise
    except Exception as problem:  # and whatever a weights file that is none leads to
        reason = " ".join(str(problem).split())[:200]
        raise BaseMismatchError(f"the adapter in {folder} does not fit this model: {reason}") from problem
    changed = guard.first_changed(adapted)
    if changed is not None and method != "osf":  # which keeps its base in two parts
        raise BaseMismatchError(
            f"the adapter in {folder} changes weights of the base itself, {changed} first, so what is learned on top "
            "would fit no base; save it without embeddings, with save_embedding_layers=False."
        )
    return adapted


def _variant(config: PeftConfig) -> tuple[bool, bool]:
    """Which kind of LoRA it is: DoRA, MiCA or neither."""
    return getattr(config, "use_dora", False), getattr(config, "init_lora_weights", True) == "mica"
