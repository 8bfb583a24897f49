"""What a run leaves in its folder, each file written whole or not at all.

out/
├── adapter/          the adapter, its tokenizer, and which base it fits; for method full, model/
├── config.yaml       the configuration, with every default filled in
├── retention.json    scores before and after, flips, configuration, versions, seed
├── log.jsonl         loss, rate and memory of every step
├── secura_base.json  checksum of the model, so that no other is resumed with
└── checkpoint-*/     the last two, to resume from
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

CONFIG_FILE = "config.yaml"
REPORT_FILE = "retention.json"
LOG_FILE = "log.jsonl"
ADAPTER_FOLDER = "adapter"
MODEL_FOLDER = "model"


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


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
