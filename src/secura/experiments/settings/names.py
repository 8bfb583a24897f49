"""The names of the methods and strategies, apart from what they are, so that settings can be checked without torch."""

from typing import Literal, get_args

MethodName = Literal[
    "secura",
    "secura-paper",
    "cabr-lora",
    "cur-lora",
    "bounded-lora",
    "lora",
    "dora",
    "mica",
    "corda",
    "osf",
    "full",
]
Boundary = Literal["fold", "keep", "anew"]
"""What becomes of an adapter between two tasks: folded, gone on with, or merged and begun anew."""
StrategyName = Literal["sequential", "replay", "ewc", "ilora", "kl_anchor", "lwf", "o_lora", "own_text"]
METHOD_NAMES: tuple[MethodName, ...] = get_args(MethodName)
STRATEGY_NAMES: tuple[StrategyName, ...] = get_args(StrategyName)
CANNOT_FOLD: tuple[MethodName, ...] = ("lora", "dora", "mica", "corda", "osf", "full")
"""PEFT's own adapters, and no adapter at all."""
