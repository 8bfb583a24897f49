"""The switchboard of strategies: from a name and settings to one, and which adapters it goes with."""

import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from secura.continual.ewc import EWC
from secura.continual.ilora import ILoRA
from secura.continual.kl_anchor import KLAnchor
from secura.continual.lwf import LwF
from secura.continual.o_lora import OLoRA
from secura.continual.replay import Replay
from secura.continual.sequential import Sequential
from secura.continual.strategy import Strategy
from secura.errors import ConfigError
from secura.experiments.settings.names import CANNOT_FOLD, Boundary, MethodName, StrategyName
from secura.training.examples import Example

STRATEGIES: Mapping[StrategyName, Callable[..., Strategy]] = {
    "sequential": Sequential,
    "replay": Replay,
    "ewc": EWC,
    "ilora": ILoRA,
    "kl_anchor": KLAnchor,
    "lwf": LwF,
    "o_lora": OLoRA,
}

_NOT_SETTINGS = ("self", "read_row", "seed")


def make_strategy(name: StrategyName, settings: Mapping[str, Any], *, seed: int) -> Strategy:
    """Build a strategy.

    Raises:
        ConfigError: for a setting it does not have, naming the nearest, or a value it refuses.
    """
    build = STRATEGIES[name]
    taken = inspect.signature(build).parameters
    known = [key for key in taken if key not in _NOT_SETTINGS]
    for key in settings:
        if key not in known:
            near = get_close_matches(key, known, n=1, cutoff=0.0)
            hint = f"the nearest is strategy.settings.{near[0]}" if near else f"{name} has no settings"
            raise ConfigError(f"unknown setting strategy.settings.{key}; {hint}.")
    given = {"seed": seed, "read_row": read_example}
    try:
        return build(**settings, **{key: value for key, value in given.items() if key in taken})
    except (ValueError, TypeError) as problem:
        raise ConfigError(f"strategy {name}: {problem}") from problem


def read_example(row: Mapping[str, Any]) -> Example:
    """A row of a saved buffer."""
    return Example(tokens=list(row["tokens"]), learned_from=int(row["learned_from"]))


def check_goes_together(
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


def check_single_run(strategy: StrategyName, settings: Mapping[str, Any], method: MethodName) -> None:
    """Refuse what makes no sense for one task, or not with this method.

    Raises:
        ConfigError: with the way out.
    """
    if strategy in ("replay", "ewc", "o_lora"):
        raise ConfigError(
            f"strategy {strategy} protects earlier tasks, and a run learns one; use kl_anchor or lwf, or learn "
            "several with secura sequence."
        )
    check_goes_together(strategy, settings, method, "keep")


def check_boundary(method: MethodName, boundary: Boundary) -> None:
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
