"""The names of the methods, apart from what they are, so that settings can be checked without torch."""

from typing import Literal, get_args

MethodName = Literal["secura", "secura-paper", "cabr-lora", "cur-lora", "bounded-lora", "lora", "dora", "osf", "full"]
METHOD_NAMES: tuple[MethodName, ...] = get_args(MethodName)
CANNOT_FOLD: tuple[MethodName, ...] = ("lora", "dora", "osf", "full")
"""PEFT's own adapters, and no adapter at all."""
