"""What a run leaves in its folder, each file written whole or not at all.

out/
├── adapter/          the adapter, its tokenizer, and which base it fits; for method full, model/
├── config.yaml       the configuration, with every default filled in
├── retention.json    scores before and after, flips, configuration, versions, seed
├── log.jsonl         loss, rate and memory of every step
├── secura_base.json  checksum of the model, so that no other is resumed with
└── checkpoint-*/     the last two, to resume from
"""

import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from secura.errors import ConfigError
from secura.experiments.settings.layers import config_as_yaml, differences, load_config
from secura.experiments.settings.run import RunConfig

CONFIG_FILE = "config.yaml"
REPORT_FILE = "retention.json"
LOG_FILE = "log.jsonl"
ADAPTER_FOLDER = "adapter"
MODEL_FOLDER = "model"


def run_folder(config: RunConfig, *, resume: bool) -> Path:
    """The folder of a run: the user's, or a new one in runs/ named for the method and the data."""
    if config.out is not None:
        return Path(config.out)
    if resume:
        raise ConfigError("--resume needs the folder of the run; name it with --out.")
    stem = Path((config.data.path or "").split(":")[0]).name.split(".")[0]
    first = Path("runs") / "-".join(part for part in (config.method.name, stem) if part)
    free = (first.with_name(f"{first.name}-{number}") for number in itertools.count(2))
    return next(folder for folder in itertools.chain([first], free) if not folder.exists())


def check_folder(folder: Path, *, resume: bool) -> None:
    """Refuse a folder that holds another run's results, or none to resume.

    Raises:
        ConfigError: with the way out.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"out {folder} is a file; name a folder.")
    if resume and not (folder / CONFIG_FILE).is_file():
        raise ConfigError(f"out {folder} holds no run to resume (no {CONFIG_FILE}); leave out --resume.")
    if not resume and folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(
            f"out {folder} is not empty; add --resume to go on with the run in it, or name another folder with --out."
        )


def check_same_settings(folder: Path, config: RunConfig) -> None:
    """Refuse to resume the run in `folder` with other settings than it began with.

    Raises:
        ConfigError: naming every setting that differs.
    """
    saved = load_config(str(folder / CONFIG_FILE))
    changed = differences(_without_places(saved), _without_places(config))
    if changed:
        raise ConfigError(
            f"the run in {folder} cannot be resumed with other settings: {'; '.join(changed)}; "
            "leave them as they were, or start anew with another --out."
        )


def _without_places(config: RunConfig) -> RunConfig:
    """The settings that must not change in a resumed run: not where it lies, nor what it must keep."""
    free = {"min_retention": None}
    return config.model_copy(update={"out": None, "retention": config.retention.model_copy(update=free)})


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_config(folder: Path, config: RunConfig) -> None:
    """Write `config.yaml`."""
    write_text(folder / CONFIG_FILE, config_as_yaml(config))


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write a folder beside `path`, then put it in place of what was there."""
    partial, old = path.with_name(path.name + ".partial"), path.with_name(path.name + ".old")
    for stale in (partial, old):
        shutil.rmtree(stale, ignore_errors=True)
    partial.mkdir(parents=True)
    fill(partial)
    if path.exists():
        os.replace(path, old)
    os.replace(partial, path)
    shutil.rmtree(old, ignore_errors=True)
