"""What the dial came to: each point's gain and what it kept, the point that was chosen, and the certificate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from secura.evaluation.certificate import Certificate, certificate_as_json
from secura.evaluation.tally import CONFIDENCE, Tally, tally_as_json

GainUnit = Literal["points", "nats a token"]
"""Points are hundredths of a score from 0 to 1."""

JSON_FILE = "dial.json"


@dataclass(frozen=True, kw_only=True)
class DialPoint:
    """One point of the dial."""

    scale: float
    """By what the learned change is multiplied; 0 is the base, 1 the tuned model."""
    gain: float
    """Gained over the base, a mean over the tasks: a share of 1, or nats a token."""
    scores: Mapping[str, float]
    """Each task's score by its name: a share of 1, or nats a token."""
    kept: Tally
    """Of the questions that the base answers right, which alone are asked."""


@dataclass(frozen=True, kw_only=True)
class DialResult:
    """Everything that `secura dial` found out."""

    base: str
    """The base model as the user named it."""
    tuned: str
    """The tuned model as the user named it."""
    points: Sequence[DialPoint]
    """By scale, the base first."""
    unit: GainUnit
    """What the gain is counted in."""
    keep: float | None
    """The share to be kept; None where nobody said."""
    certificate: Certificate | None
    """Whether that share is shown to be kept at the chosen point; None without `keep`."""
    written: Path | None
    """Where a point was written."""
    written_scale: float | None
    """Which one."""
    notes: Sequence[str]
    """What the user should know."""
    record: Mapping[str, Any]
    """Settings, versions, fingerprints and times: what a stored result carries."""
    confidence: float = CONFIDENCE
    """Of every interval and of the certificate."""


def result_as_json(result: DialResult) -> dict[str, Any]:
    """All of a result."""
    return {
        "base": result.base,
        "tuned": result.tuned,
        "unit": result.unit,
        "keep": result.keep,
        "points": [
            {
                "scale": point.scale,
                "gain": point.gain,
                "scores": dict(point.scores),
                "kept": tally_as_json(point.kept, result.confidence),
            }
            for point in result.points
        ],
        "certificate": None if result.certificate is None else certificate_as_json(result.certificate),
        "written": None if result.written is None else str(result.written),
        "written_scale": result.written_scale,
        "notes": list(result.notes),
        **result.record,
    }
