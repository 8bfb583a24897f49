"""The name of a file or folder made from what a user, a row or a file calls something."""

import hashlib
import re

NAME_BYTES = 80
"""Two such names, a seed and an ending fit into the 255 bytes that file systems allow."""


def file_name(text: str, *, at_most: int = NAME_BYTES) -> str:
    """A name that stays in its folder: no separator, no dot or dash in front, never empty, `at_most` bytes.

    A name of letters, digits, `_`, `.` and `-` stays as it is; anything else becomes `_`. A longer one is cut, and
    told from others by a checksum. Different texts may come to one name: callers put a number or a checksum beside it.
    """
    plain = re.sub(r"[^\w.-]+", "_", text).lstrip(".-") or "unnamed"
    if len(plain.encode()) <= at_most:
        return plain
    checksum = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    cut = plain.encode()[: at_most - len(checksum) - 1].decode("utf-8", "ignore")
    return f"{cut}-{checksum}"
