"""Files and folders that are written whole or not at all: beside their place first, then moved into it."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from secura.errors import SecuraError


def write_file(path: Path, fill: Callable[[Path], object]) -> None:
    """Let `fill` write a file beside `path`, then put it in place of what was there.

    Raises:
        SecuraError: if it cannot be written, such as on a full disk; what was there stays.
    """
    partial = path.with_name(path.name + ".partial")
    with _whole_or_not(path, partial):
        path.parent.mkdir(parents=True, exist_ok=True)
        fill(partial)
        os.replace(partial, path)


def write_text(path: Path, text: str) -> None:
    """Write a text whole or not at all; raises as `write_file`."""
    write_file(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write a folder beside `path`, then put it in place of what was there.

    Raises:
        SecuraError: if it cannot be written, such as on a full disk; what was there stays.
    """
    partial, old = path.with_name(path.name + ".partial"), path.with_name(path.name + ".old")
    with _whole_or_not(path, partial):
        for stale in (partial, old):
            shutil.rmtree(stale, ignore_errors=True)
        partial.mkdir(parents=True)
        fill(partial)
        if path.exists():
            os.replace(path, old)
        try:
            os.replace(partial, path)
        except BaseException:
            if old.exists() and not path.exists():
                os.replace(old, path)
            raise
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _whole_or_not(path: Path, partial: Path) -> Iterator[None]:
    """Leave nothing half written, whatever ends the writing, and say in one sentence what could not be written."""
    try:
        yield
    except BaseException as problem:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            with suppress(OSError):
                partial.unlink()
        if not isinstance(problem, OSError | SafetensorError):
            raise
        reason = (problem.strerror if isinstance(problem, OSError) else None) or " ".join(str(problem).split())
        raise SecuraError(f"{path} cannot be written: {reason}; the old file is unchanged.") from problem
