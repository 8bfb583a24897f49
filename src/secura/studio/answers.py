"""What requests bring and answers are made of, beside the pages."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response


async def form_fields(request: Request) -> dict[str, str]:
    """The fields of a form as a browser sends them; of several of one name the last."""
    return dict(parse_qsl((await request.body()).decode("utf-8", errors="replace"), keep_blank_values=True))


def see_other(path: str) -> Response:
    """The answer to a form: a page to look at, which a reload does not send again."""
    return RedirectResponse(path, 303)


def event(value: Mapping[str, Any]) -> str:
    """An event as server-sent events are written."""
    return f"data: {json.dumps(value)}\n\n"


def text_of(file: Path) -> str:
    """A file's text; empty where there is none."""
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
