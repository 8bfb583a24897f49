"""One process at a time writes into a folder, or replaces one: two that mix would leave the result of neither."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from secura.errors import ConfigError

LOCK_FILE = ".lock"
"""Held while a folder is written to. It stays there, since a process that waits for it may have it open."""
_PATIENCE_SECONDS = 0.5
"""For how long a writer tries: one who only asks whether a folder is held has the lock for a moment."""


@contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Make a folder and be the only one that writes into it; one that is left empty is removed again.

    The lock ends with its process, however that ends.

    Raises:
        ConfigError: if another process holds the folder, or nothing can be written there.
    """
    new = [each for each in (folder, *folder.parents) if not each.exists()]
    with _lock(folder / LOCK_FILE, folder, "name another folder with --out"):
        try:
            yield
        finally:
            if new and _names_in(folder) == [LOCK_FILE]:
                (folder / LOCK_FILE).unlink()
                _remove_empty(new)


@contextmanager
def one_writer_of(folder: Path) -> Iterator[None]:
    """Be the only one that writes a folder which takes its place whole, replacing what was there.

    The lock lies beside it, and goes when it ends.

    Raises:
        ConfigError: if another process writes the folder, nothing can be written there, or it cannot be replaced.
    """
    here = Path.cwd()
    if folder.resolve() in (here, *here.parents):
        raise ConfigError(f"{folder} is where this command runs, so it cannot be replaced; name a folder of its own.")
    new = [each for each in folder.parents if not each.exists()]
    lock = folder.with_name(f".{folder.name}.lock")
    with _lock(lock, folder, "name another folder"):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)  # while it is held: who has opened it finds that it is no longer there
            _remove_empty(new)


@contextmanager
def _lock(file: Path, folder: Path, way_out: str) -> Iterator[None]:
    lock = FileLock(file, timeout=_PATIENCE_SECONDS)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as problem:
        raise ConfigError(f"another process is writing into {folder}; wait until it has ended, or {way_out}.") from (
            problem
        )
    except (OSError, NotImplementedError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else "its file system knows no locks"
        raise ConfigError(f"{folder} cannot be written to: {reason}; {way_out}.") from problem
    try:
        yield
    finally:
        lock.release()


def _names_in(folder: Path) -> list[str]:
    return os.listdir(folder) if folder.is_dir() else []


def _remove_empty(folders: Sequence[Path]) -> None:
    with suppress(OSError):
        for each in folders:
            each.rmdir()


def is_being_written(folder: Path) -> bool:
    """Whether a process holds a folder; one whose lock cannot be asked counts as free."""
    if not (folder / LOCK_FILE).is_file():
        return False
    lock = FileLock(folder / LOCK_FILE, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return True
    except (OSError, NotImplementedError):
        return False
    lock.release()
    return False


def holds_nothing(folder: Path) -> bool:
    """Whether a folder is empty, but for the lock of one who is about to write into it."""
    return all(path.name == LOCK_FILE for path in folder.iterdir())
