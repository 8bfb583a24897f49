"""What may be set on a SECURA adapter, and the named presets of the published methods."""

from __future__ import annotations

import copy
import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, cast, get_args

from peft.config import PeftConfig
from peft.utils import PeftType

from secura.adapters.secura.patterns import check_pattern
from secura.adapters.secura.sealing import check_saved
from secura.errors import ConfigError

PEFT_TYPE_NAME = "SECURA"
PEFT_TYPE_IN_FILES = "SECURA: pip install secura, and run `import secura` before this adapter is loaded"
"""`peft_type` in adapter_config.json. Where PEFT does not know it, all that its KeyError says is this text."""
DEFAULT_RANK = 32
DEFAULT_WIDENING = 4
_LARGEST = 1e30
"""Beyond this a setting overflows float32, in which D is computed."""

Change = Literal["cabr", "cur", "low_rank"]
Norm = Literal["none", "paper", "released", "bounded", "row_bounded"]
Reference = Literal["fixed", "moving"]
Fold = Literal["keep", "undamped"]
Selection = Literal["least", "sample", "activation"]
Start = Literal["leading_block", "principal", "gaussian"]
Scale = Literal["natural", "plain"]

PRESETS: dict[str, dict[str, Any]] = {
    "secura": {"target_modules": "all-linear", "tau": 0.15},
    "secura-paper": {"norm": "paper", "reference": "moving", "fold": "undamped"},
    "cabr-lora": {"norm": "none", "reference": "fixed"},
    "cur-lora": {"change": "cur", "norm": "none", "reference": "fixed", "selection": "sample"},
    "bounded-lora": {"change": "low_rank", "reference": "fixed", "r": 8, "tau": 0.2},
}
"""What each named method sets; everything else is a default of `SecuraConfig`."""


@dataclass
class SecuraConfig(PeftConfig):
    """Configuration of a SECURA adapter, W' = norm(W_ref, D).

    Three choices make the method: the change D, the norm that restrains it, and the
    reference it is measured against; `fold` says what a fold does to the model.
    `SecuraConfig.preset("secura")` is the recommended method: a small bound on every linear
    layer. `SecuraConfig()` is the same on what PEFT adapts where nothing is named, the query and
    value projections, with the larger bound that fewer layers need. The other presets are the
    published methods.
    """

    activity = cast("Mapping[str, Any] | None", None)  # no field: what is not annotated is not saved
    """A `LayerActivity` by name of the layer, which `measure_activity` leaves here for `selection="activation"`."""

    change: Change = field(
        default="cabr",
        metadata={"help": "How D is made: `cabr` C A B R, `cur` C U R, `low_rank` B A."},
    )
    norm: Norm = field(
        default="bounded",
        metadata={
            "help": "How D is limited: `bounded` by a smooth bound on every weight; `row_bounded` by a bound on how "
            "far each row moves (costs what LoRA costs, and the result is a LoRA of rank r); `paper` by S-MagNorm "
            "as published; `released` by the released code's norm on activations (cannot be merged); `none` not at "
            "all."
        },
    )
    reference: Reference | None = field(
        default=None,
        metadata={
            "help": "What D is measured against: `moving` (M1) is the model at the last fold, `fixed` (M2) the "
            "pretrained weight. None is `moving`, except that it is `fixed` with the norm `released`."
        },
    )
    fold: Fold = field(
        default="keep",
        metadata={"help": "Whether a fold leaves W' as it is, or adds D to the reference without the norm (M1)."},
    )
    r: int | None = field(
        default=None,
        metadata={"help": "Rank: how many columns and rows C and R hold. None is 32, or the layer's smaller side."},
    )
    inner_r: int | None = field(
        default=None,
        metadata={"help": "Inner rank k of A (r, k) and B (k, r) under `cabr`, at least r. None is 4 r."},
    )
    selection: Selection = field(
        default="least",
        metadata={
            "help": "Which columns and rows: `least`, those of smallest norm; `sample`, a random draw that favours "
            "them; `activation`, those that the base uses least on texts that it reads first (`measure_activity`)."
        },
    )
    selection_seed: int = field(default=0, metadata={"help": "Seed of the draw of `selection='sample'`."})
    start: Start | None = field(
        default=None,
        metadata={
            "help": "What A starts as; B starts at 0. None is `leading_block` for `cabr` and `gaussian` for "
            "`low_rank`; `cur` has no A."
        },
    )
    init_weights: bool = field(
        default=True,
        metadata={"help": "False starts B at random, so the adapter changes the model at once; for debugging."},
    )
    tau: float = field(
        default=0.3,
        metadata={
            "help": "The bound of `bounded`: the largest move of a weight, as a share of its own magnitude; of "
            "`row_bounded`: of a row, as a share of its own length. If the adapter is merged into weights of 16 "
            "bits, the bound holds up to one rounding of each weight. The more layers are adapted, the smaller it can "
            "be: 0.15 if all are, as in the preset `secura`."
        },
    )
    floor: float = field(
        default=0.05,
        metadata={
            "help": "Added to every magnitude in `bounded`, as a share of the weight's rms, so zeros can learn; "
            "`row_bounded` needs none."
        },
    )
    scale: Scale = field(
        default="natural",
        metadata={
            "help": "What D is multiplied by: `natural`, a number for each layer such that a step at rate 1e-2 moves "
            "D by one hundredth of its natural size, on every model; `plain`, nothing, as published."
        },
    )
    alpha: float | None = field(
        default=None,
        metadata={"help": "D is also multiplied by alpha / r, as in LoRA. None multiplies by nothing."},
    )
    output_bias: bool = field(default=False, metadata={"help": "Whether to train a bias on the layer's output."})
    dropout: float = field(
        default=0.0, metadata={"help": "Share of the inputs to D that are dropped in training, in 0..1."}
    )
    target_modules: list[str] | set[str] | str | None = field(
        default=None,
        metadata={
            "help": "Names of the modules to adapt, a regular expression, or 'all-linear'. None is the query and "
            "value projections of known architectures."
        },
    )
    exclude_modules: list[str] | set[str] | str | None = field(
        default=None, metadata={"help": "Names, or a regular expression, of modules to leave alone."}
    )
    layers_to_transform: list[int] | int | None = field(
        default=None, metadata={"help": "Indices of the layers to adapt; needs target_modules as a list."}
    )
    layers_pattern: list[str] | str | None = field(
        default=None, metadata={"help": "Name of the module list that layers_to_transform counts in."}
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Modules to train in full and save beside the adapter."}
    )
    rank_pattern: dict[str, int] = field(
        default_factory=dict, metadata={"help": "Ranks of single layers, by name or regular expression."}
    )
    alpha_pattern: dict[str, float] = field(
        default_factory=dict, metadata={"help": "Alphas of single layers, by name or regular expression."}
    )
    verify_base: bool | Literal["adapted"] = field(
        default=True,
        metadata={
            "help": "Whether loading refuses a base model with other weights than in training. True compares all "
            "values of each adapted weight, and one value of every row of the other weights. `adapted` compares "
            "only the adapted weights, for a base whose other weights were changed on purpose. False compares "
            "nothing."
        },
    )
    saved: dict[str, Any] | None = field(
        default=None,
        metadata={
            "help": "Written when an adapter is saved: its indices, fingerprints, folds and seal. Do not set it."
        },
        repr=False,
    )

    def __post_init__(self) -> None:
        if self.saved is not None:
            check_saved(self.saved)
        super().__post_init__()
        self.__dict__["_was_read"] = self.peft_type is not None  # what reads a file gives the kind that stands in it
        self.peft_type = getattr(PeftType, PEFT_TYPE_NAME, PEFT_TYPE_NAME)
        if self.reference is None:
            self.reference = "fixed" if self.norm == "released" else "moving"
        if self.modules_to_save is not None and not _are_texts(self.modules_to_save):
            raise ConfigError(f"modules_to_save is {_shown(self.modules_to_save)}, but must be a list of texts.")
        for name in ("target_modules", "exclude_modules"):
            modules = getattr(self, name)
            if isinstance(modules, str):
                check_pattern(name, modules)
            elif modules is not None and not _are_texts(modules):
                raise ConfigError(f"{name} is {_shown(modules)}, but must be a text or a list of texts.")
        if self.target_modules is not None and not self.target_modules:
            raise ConfigError("target_modules is empty; name at least one module, or leave it unset.")
        if not _are_indices(self.layers_to_transform):
            raise ConfigError(
                f"layers_to_transform is {_shown(self.layers_to_transform)}, but must be a number or a list of numbers."
            )
        pattern = self.layers_pattern
        if pattern is not None and not isinstance(pattern, str) and not _are_texts(pattern):
            raise ConfigError(f"layers_pattern is {_shown(pattern)}, but must be a text or a list of texts.")
        self.target_modules = _as_set(self.target_modules)
        self.exclude_modules = _as_set(self.exclude_modules)
        if isinstance(self.target_modules, str) and self.target_modules != "all-linear":
            for name in ("layers_to_transform", "layers_pattern"):
                if getattr(self, name) is not None:
                    raise ConfigError(
                        f"{name} cannot be used when target_modules is the expression {self.target_modules!r}; "
                        "give target_modules as a list of names."
                    )
        self._check_choices()
        self._check_numbers()

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> SecuraConfig:
        """A published method by name, with any field set otherwise.

        Args:
            name: one of `secura`, `secura-paper`, `cabr-lora`, `cur-lora`, `bounded-lora`.
            overrides: fields of `SecuraConfig`.

        Raises:
            ConfigError: if the name or a field is unknown, with the nearest known one.
        """
        if name not in PRESETS:
            raise ConfigError(f"unknown preset {name!r}{_nearest(name, PRESETS)}; known: {', '.join(PRESETS)}.")
        known = [one.name for one in fields(cls) if one.init]
        for key in overrides:
            if key not in known:
                raise ConfigError(f"unknown adapter setting {key!r}{_nearest(key, known)}.")
        return cls(**{**PRESETS[name], **overrides})

    @classmethod
    def from_json_file(cls, path_json_file: str, **kwargs: Any) -> dict[str, Any]:
        """Read adapter_config.json; refuses one in which a key stands twice, since readers differ in which they take.

        Raises:
            ConfigError: naming the file.
        """
        try:
            with open(path_json_file, encoding="utf-8") as file:
                json.load(file, object_pairs_hook=_without_repeats)
        except (ValueError, RecursionError) as problem:
            raise ConfigError(f"{path_json_file} cannot be read: {problem or 'it is nested too deep'}.") from problem
        found = super().from_json_file(path_json_file, **kwargs)
        if "peft_type" in found:
            found["peft_type"] = plain_peft_type(found["peft_type"])
        return found

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Write adapter_config.json, with the indices and fingerprints of the layers it was saved from.

        They go into the written copy only: this object stays usable for another base model.
        """
        written = copy.copy(self)
        written.saved = self.__dict__.get("_to_save", self.saved)
        written.peft_type = PEFT_TYPE_IN_FILES  # type: ignore[assignment]  # any text, until it is read back
        for name in ("target_modules", "exclude_modules"):  # sets, whose order differs from process to process
            modules = getattr(written, name)
            setattr(written, name, sorted(modules) if isinstance(modules, set) else modules)
        PeftConfig.save_pretrained(written, save_directory, **kwargs)

    def _check_choices(self) -> None:
        for name, choices in (
            ("change", Change),
            ("norm", Norm),
            ("reference", Reference),
            ("fold", Fold),
            ("selection", Selection),
            ("scale", Scale),
        ):
            _check_choice(name, getattr(self, name), get_args(choices))
        if self.verify_base not in (True, False, "adapted"):
            raise ConfigError(f"verify_base is {_shown(self.verify_base)}; known: true, false, adapted.")
        if not isinstance(self.output_bias, bool):
            raise ConfigError(f"output_bias is {_shown(self.output_bias)}, but must be true or false.")
        if self.start is not None:
            _check_choice("start", self.start, get_args(Start))
            if self.change == "cur":
                raise ConfigError(
                    f"start is {self.start!r}, but change='cur' has no factor A to start; leave it unset."
                )
        if self.fold == "undamped" and self.reference == "fixed":
            raise ConfigError(
                "fold='undamped' adds to a reference that reference='fixed' never moves; use reference='moving'."
            )
        if self.norm == "released" and self.reference == "moving" and self.fold == "keep":
            raise ConfigError(
                "norm='released' acts on activations, so no fold into the weight can keep W' as it is; use "
                "fold='undamped', or reference='fixed'."
            )

    def _check_numbers(self) -> None:
        for name in ("r", "inner_r"):
            value = getattr(self, name)
            if value is not None and not _is_rank(value):
                raise ConfigError(f"{name} is {value!r}, but must be a whole number of at least 1.")
        for name, form, wanted in (
            ("rank_pattern", _is_rank, "a whole number of at least 1"),
            ("alpha_pattern", _is_number, "a finite number"),
        ):
            patterns = getattr(self, name)
            if not isinstance(patterns, dict):
                raise ConfigError(f"{name} is {_shown(patterns)}, but must be a mapping of names to numbers.")
            for pattern, value in patterns.items():
                check_pattern(name, str(pattern))
                if not form(value):
                    raise ConfigError(f"{name}[{pattern!r}] is {_shown(value)}, but must be {wanted}.")
        for name in ("tau", "floor", "alpha", "dropout"):
            value = getattr(self, name)
            if not _is_number(value) and not (name == "alpha" and value is None):
                raise ConfigError(f"{name} is {_shown(value)}, but must be a finite number.")
        if self.inner_r is not None and self.inner_r < (self.r or 1):
            raise ConfigError(f"inner_r is {self.inner_r}, but must be at least r, which is {self.r}.")
        if not self.tau > 0:
            raise ConfigError(f"tau is {self.tau}, but must be above 0: a share of each weight, such as 0.3.")
        if not self.floor >= 0:
            raise ConfigError(f"floor is {self.floor}, but must be at least 0: a share of the weight's rms.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is {self.dropout}, but must be at least 0 and below 1.")


def plain_peft_type(in_file: str) -> str:
    """The name of an adapter's method, from what adapter_config.json says."""
    return PEFT_TYPE_NAME if in_file == PEFT_TYPE_IN_FILES else in_file


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands in it twice")
    return values


def _are_texts(value: object) -> bool:
    return isinstance(value, list | set | tuple) and all(isinstance(each, str) for each in value)


def _are_indices(value: object) -> bool:
    values = value if isinstance(value, list) else [] if value is None else [value]
    return all(isinstance(each, int) and not isinstance(each, bool) for each in values)


def _is_rank(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_number(value: object) -> bool:
    """Whether something is a number that float32 holds: no text, no truth value, no infinity and no NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _as_set(modules: list[str] | set[str] | str | None) -> set[str] | str | None:
    return set(modules) if isinstance(modules, list) else modules


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{name} is {_shown(value)}{_nearest(str(value), choices)}; known: {', '.join(choices)}.")


def _nearest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
