"""What the list, and the head of a page, say of a run."""

from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from secura.studio.entries import KINDS, PAGES, Entry
from secura.studio.progress import STATE_NAMES, Progress


def card(progress: Progress) -> dict[str, Any]:
    """A run as it is now."""
    entry = progress.entry
    settings = entry.settings
    model = _section(settings, "model").get("path") or "the bundled model"
    data = _section(settings, "data").get("path") or ", ".join(map(str, settings.get("tasks") or ["a bundled task"]))
    changed = entry.changed or (progress.started.began if progress.started else 0.0)
    return {
        **link(entry),
        "leads_to": "result" if entry.kind in PAGES and progress.state == "done" else "run",
        "state": progress.state.replace(" ", "-"),
        "state_name": STATE_NAMES[progress.state],
        "is_active": progress.is_active,
        "what": f"{Path(str(model)).name} learns {Path(str(data)).name}" if settings else "",
        "method": _section(settings, "method").get("name", ""),
        "step": progress.step,
        "steps": progress.steps,
        "loss": None if progress.loss is None else f"{progress.loss:.3f}",
        "left": _duration(progress.seconds_left),
        "headline": entry.headline if progress.state == "done" else "",
        "said": progress.said,
        "when": datetime.fromtimestamp(changed).strftime("%Y-%m-%d %H:%M") if changed else "",
    }


def link(entry: Entry) -> dict[str, Any]:
    """What leads to it."""
    return {
        "name": entry.name,
        "path": quote(entry.name),
        "kind": entry.kind,
        "kind_name": KINDS[entry.kind],
        "title": entry.headline,
    }


def _section(settings: dict[str, Any], name: str) -> dict[str, Any]:
    section = settings.get(name)
    return section if isinstance(section, dict) else {}


def _duration(seconds: float | None) -> str:
    """A time to wait, rounded as a person would."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
