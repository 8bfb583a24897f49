"""Sentences about who leads, which name nobody whose interval meets another's."""

from collections.abc import Mapping

from secura.report.comparison.estimate import Estimate, standing
from secura.report.comparison.measure import Measure
from secura.report.wording import listed


def leader_sentence(estimates: Mapping[str, Estimate], measure: Measure, claim: str) -> str:
    """Who leads, or that it cannot be told; empty where there is no number at all.

    Args:
        estimates: of each name.
        measure: what the numbers are.
        claim: what the leader does, such as `keeps most knowledge`; it follows the name.
    """
    if not estimates:
        return ""
    found = standing(estimates, lower_is_better=measure.lower_is_better)
    if found is None:
        ((name, only),) = estimates.items()
        return f"{name} alone has numbers: {measure.span(only)}."
    best = f"{found.best} {claim}, {measure.span(estimates[found.best])}"
    if found.clear:
        return f"{best}, clear of every other interval."
    if found.best in found.unknown:
        return f"By the means {best}; a single run cannot be told apart from any other."
    said = f"By the means {best}"
    if found.tied:
        said += f"; it cannot be told apart from {listed(found.tied)}"
    if found.unknown:
        said += f"; nothing can be said of single runs, those of {listed(found.unknown)}"
    return f"{said}."


def each_place(sentences: Mapping[str, str]) -> str:
    """The sentences of several places, such as models, a line each; a single place goes without saying."""
    said = {place: sentence for place, sentence in sentences.items() if sentence}
    if len(said) < 2:
        return " ".join(said.values())
    return "\n".join(f"{place}: {sentence}" for place, sentence in said.items())
