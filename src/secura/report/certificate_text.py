"""A certificate as a card or a page shows it, from its stored form; nothing where there is none."""

from collections.abc import Mapping
from typing import Any

from secura.evaluation.tally import limit_text, percent


def certificate_facts(certificate: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """The numbers of a certificate as pairs of name and text.

    Args:
        certificate: as `certificate_as_json` made it; None where a run has none.
    """
    if certificate is None:
        return []
    facts = [
        ("outcome", str(certificate["outcome"])),
        ("share to keep", limit_text(certificate["keep"])),
        ("confidence", limit_text(certificate["confidence"])),
        ("held-back questions", f"{certificate['items']:,}"),
        ("questions that chose", f"{certificate['select_items']:,}"),
        ("points chosen from", f"{certificate['points']:,}"),
        ("seed", str(certificate["seed"])),
    ]
    if certificate["scale"] is not None:
        facts.append(("dial", f"{certificate['scale']:g}"))
    if certificate["kept"] is not None:
        facts.append(("kept", f"{certificate['kept']:,} of {certificate['items']:,}, {percent(certificate['share'])}"))
        facts.append(("lower bound", percent(certificate["lower"])))
    return facts
