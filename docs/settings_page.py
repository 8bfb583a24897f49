"""Writes docs/settings.md from the settings classes; `make docs` runs it, and a test holds the page to it.

Every row is a field: its name as `--set` takes it, its type and limits, its default, and its docstring.
"""

import dataclasses
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import annotated_types
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from secura.adapters.secura.config import SecuraConfig
from secura.experiments.comparison.grid.config import GridConfig
from secura.experiments.methods.defaults import METHOD_DEFAULTS
from secura.experiments.methods.strategies import STRATEGIES
from secura.experiments.settings.run import RunConfig
from secura.experiments.settings.sequence import SequenceConfig

PAGE = Path(__file__).with_name("settings.md")

_HEAD = """# Settings

This page is made from the settings classes by `make docs`. `secura train --print-config` prints those of a run as YAML.

A setting is written in three ways. Later ones win:

```console
$ secura train examples/real.yaml
$ secura train --set training.steps=200 --set method.adapter.r=16
$ secura train --method lora --keep 0.98
```

If a name is unknown, the error says the nearest one.
"""
_NOT_SETTINGS = ("self", "read_row", "seed")
"""Of a strategy: what a run hands to it by itself."""


def settings_page() -> str:
    """The whole page."""
    parts = [
        _HEAD,
        _section("secura train", "Settings of one run.", _rows(RunConfig)),
        _section(
            "secura sequence",
            "As for `secura train`, except for these. `data.path`, `data.split` and `data.test_path` are only for "
            "one run.",
            [row for row in _rows(SequenceConfig) if row not in set(_rows(RunConfig))],
        ),
        _section(
            "secura compare",
            "Settings of a grid, which is a separate file: [Comparing runs](compare.md).",
            _rows(GridConfig),
        ),
        _section(
            "Adapter",
            "Settings of this package's methods, as `method.adapter.NAME` or as arguments of `SecuraConfig`. PEFT's "
            "own methods take the fields of PEFT's configs in the same place.",
            list(_adapter_rows()),
        ),
        _strategies(),
        _rates(),
    ]
    return "\n".join(parts)


def _section(title: str, said: str, rows: list[str]) -> str:
    return "\n".join(
        [f"## {title}\n", f"{said}\n", "| setting | is | default | meaning |", "|---|---|---|---|", *rows, ""]
    )


def _rows(section: type[BaseModel], prefix: str = "") -> list[str]:
    rows: list[str] = []
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            rows += _rows(inner, f"{prefix}{name}.")
        else:
            rows.append(_row(prefix + name, _kind(inner, field.metadata), _default(field), str(field.description)))
    return rows


def _row(name: str, kind: str, default: str, meaning: str) -> str:
    cells = (f"`{name}`", kind, default, " ".join(meaning.split()))
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _kind(annotation: Any, metadata: list[Any] | tuple[Any, ...] = ()) -> str:
    """A type in words that a reader of YAML knows."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(inner[0], _constraints(inner[1:]))
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_kind(each, metadata) for each in inner))
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin in (list, set, tuple):
        return f"list of {_kind(inner[0])}"
    if annotation is NoneType:
        return "null"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    name = {int: "whole number", float: "number", str: "text", bool: "true or false"}.get(annotation)
    if name is None:
        return "section" if annotation is dict or origin is dict else "value"
    return name + (_limits(metadata) if annotation in (int, float) else "")


def _constraints(metadata: tuple[Any, ...]) -> list[Any]:
    return [one for each in metadata for one in (each.metadata if isinstance(each, FieldInfo) else [each])]


def _limits(metadata: list[Any] | tuple[Any, ...]) -> str:
    words = []
    for limit in metadata:
        match limit:
            case annotated_types.Ge(ge=value):
                words.append(f"{value:g} or more")
            case annotated_types.Gt(gt=value):
                words.append(f"above {value:g}")
            case annotated_types.Le(le=value):
                words.append(f"at most {value:g}")
            case annotated_types.Lt(lt=value):
                words.append(f"below {value:g}")
            case _:
                pass
    return "".join(f", {word}" for word in words)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "must be given"
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, list):
        value = [each.model_dump() if isinstance(each, BaseModel) else each for each in value]
    return _value(value)


def _value(value: Any) -> str:
    if isinstance(value, list | dict):
        return f"`{json.dumps(value)}`"
    return f"`{yaml.safe_dump(value).removesuffix('...' + chr(10)).strip()}`"


def _adapter_rows() -> Iterator[str]:
    kinds = get_type_hints(SecuraConfig)
    for field in dataclasses.fields(SecuraConfig):
        if field.name in SecuraConfig.__annotations__ and field.name != "saved":  # which saving fills in
            factory = field.default_factory
            default = field.default if isinstance(factory, type(dataclasses.MISSING)) else factory()
            yield _row(field.name, _kind(kinds[field.name]), _value(default), field.metadata["help"])


def _strategies() -> str:
    lines = [
        "## Strategies\n",
        "`strategy.name`, and the settings of each as `strategy.settings.NAME`. What they do: "
        "[Task after task](continual.md#strategies), and the [reference](reference/continual.md).\n",
        "| strategy | setting | default |",
        "|---|---|---|",
    ]
    for name, build in STRATEGIES.items():
        taken = [each for each in inspect.signature(build).parameters.values() if each.name not in _NOT_SETTINGS]
        lines += [f"| `{name}` | `{each.name}` | {_value(each.default)} |" for each in taken] or [
            f"| `{name}` | none | |"
        ]
    return "\n".join([*lines, ""])


def _rates() -> str:
    lines = [
        "## Methods\n",
        "What `training.learning_rate: null` means. In a sequence `method.boundary: method` means the last column.\n",
        "| method | rate on the bundled model | on any other | longest gradient | between tasks |",
        "|---|---|---|---|---|",
    ]
    for name, defaults in METHOD_DEFAULTS.items():
        other = defaults.on_other_models or defaults.learning_rate
        numbers = f"{defaults.learning_rate:g} | {other:g} | {defaults.max_grad_norm:g}"
        lines.append(f"| `{name}` | {numbers} | `{defaults.boundary}` |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    PAGE.write_text(settings_page(), encoding="utf-8")
