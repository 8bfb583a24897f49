"""The strategies by name, and from a name and settings to one."""

import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from secura.continual.ewc import EWC
from secura.continual.ilora import ILoRA
from secura.continual.kl_anchor import KLAnchor
from secura.continual.lwf import LwF
from secura.continual.o_lora import OLoRA
from secura.continual.own_text import OwnText
from secura.continual.replay import Replay
from secura.continual.sequential import Sequential
from secura.continual.strategy import Strategy
from secura.errors import ConfigError
from secura.experiments.settings.names import StrategyName
from secura.training.examples import Example

STRATEGIES: Mapping[StrategyName, Callable[..., Strategy]] = {
    "sequential": Sequential,
    "replay": Replay,
    "ewc": EWC,
    "ilora": ILoRA,
    "kl_anchor": KLAnchor,
    "lwf": LwF,
    "o_lora": OLoRA,
    "own_text": OwnText,
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
    left_out = tuple((int(first), int(after)) for first, after in row.get("left_out", ()))
    return Example(tokens=list(row["tokens"]), learned_from=int(row["learned_from"]), left_out=left_out)
