"""The architecture of a model without its weights: from its folder, from the hub's cache, or from what is published.

The five backbones of the paper are kept here as facts, one JSON each in `backbones/`, since
some may be downloaded only by who has agreed to a licence, and a plan needs no weights. Sizes
are those of the models' config.json on the hub; `weights` is the number of weights that the hub
shows, which the tests hold each config to.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PretrainedConfig

from secura.errors import ConfigError
from secura.experiments.models.gguf import config_in_gguf, gguf_file
from secura.tasks.world import bundled_model_path


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A model of the paper, by its published sizes."""

    ids: tuple[str, ...]
    """Its names on the hub; the instruction-tuned one has the same sizes."""
    weights: int
    """How many weights it has, as published; tied ones once."""
    settings: dict[str, Any]
    """What its config.json says."""

    @property
    def config(self) -> PretrainedConfig:
        """The configuration that transformers builds it from."""
        settings = dict(self.settings)
        return AutoConfig.for_model(settings.pop("model_type"), **settings)


@cache
def backbones() -> tuple[Backbone, ...]:
    """Every backbone that is known without a download."""
    folder = files("secura.experiments.comparison.plan") / "backbones"
    stored = [
        json.loads(each.read_text(encoding="utf-8")) for each in sorted(folder.iterdir(), key=lambda each: each.name)
    ]
    return tuple(Backbone(ids=tuple(each["ids"]), weights=each["weights"], settings=each["config"]) for each in stored)


def config_of_model(source: str | None) -> PretrainedConfig:
    """The configuration of a model.

    Args:
        source: a folder with a config.json, a GGUF file, or a hub id; one of `backbones` needs no network. None is the
            bundled model.

    Raises:
        ConfigError: if there is no such folder, or the hub cannot be reached for it.
    """
    source = str(bundled_model_path()) if source is None else source
    for backbone in backbones():
        if source.lower() in (each.lower() for each in backbone.ids) and not Path(source).exists():
            return backbone.config
    file = gguf_file(source)
    if file is not None:
        return config_in_gguf(file)
    try:
        return AutoConfig.from_pretrained(source)
    except (OSError, ValueError, KeyError) as problem:
        known = ", ".join(each.ids[0] for each in backbones())
        reason = " ".join(str(problem).split())[:200]
        raise ConfigError(
            f"the sizes of model {source} are not known: give a folder that holds its config.json, or one of "
            f"{known} ({reason})"
        ) from problem
