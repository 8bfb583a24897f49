"""The checksum of a file, read a piece at a time."""

import hashlib
from pathlib import Path


def file_checksum(path: Path | str) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
