"""JSON from files and rows that others may have written: whatever is wrong with it is one kind of error."""

import json
from pathlib import Path
from typing import Any


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        OSError: if it cannot be read.
        UnicodeDecodeError: if it is not UTF-8.
        json.JSONDecodeError: as `parsed_json`.
    """
    return parsed_json(path.read_text(encoding="utf-8"))


def parsed_json(text: str) -> Any:
    """What a JSON text holds.

    Raises:
        json.JSONDecodeError: if it is not JSON, is nested so deeply that it cannot be read, or holds a whole number
            of more digits than Python reads; the first alone is one of `json.loads`.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as problem:
        problem.msg = problem.msg.removesuffix(" at")  # the place follows
        raise
    except RecursionError:
        raise json.JSONDecodeError("Nested too deeply", text, 0) from None
    except ValueError:
        raise json.JSONDecodeError("A whole number of too many digits", text, 0) from None
