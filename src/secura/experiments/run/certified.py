"""The certificate that a run has stored beside its scores, for whoever shows it."""

from pathlib import Path
from typing import Any

from secura.experiments.files import ADAPTER_FOLDER, MODEL_FOLDER, REPORT_FILE
from secura.json_text import read_json

_HELD = {"outcome", "keep", "confidence", "seed", "select_items", "items", "points", "scale", "kept", "share", "lower"}
_HELD |= {"sentence", "explanation"}


def stored_certificate(tuned: str | Path) -> dict[str, Any] | None:
    """The certificate of a run, by the run's folder or that of its adapter or model; None where there is none.

    A file that cannot be read, or a certificate that lacks a part, counts as none.
    """
    folder = Path(tuned)
    folder = folder.parent if folder.name in (ADAPTER_FOLDER, MODEL_FOLDER) else folder
    try:
        report = read_json(folder / REPORT_FILE)
    except (OSError, ValueError):
        return None
    found = report.get("certificate") if isinstance(report, dict) else None
    return found if isinstance(found, dict) and found.keys() >= _HELD else None
