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
        claim: what the leader does, such as `keeps most knowledge`.
    """
    if not estimates:
        return ""
    found = standing(estimates, lower_is_better=measure.lower_is_better)
    if found is None:
        ((name, only),) = estimates.items()
        return f"{name} alone has numbers: {measure.span(only)}."
    best = f"{found.best}, {measure.span(estimates[found.best])}"
    if found.best in found.unknown:
        return f"The best mean is of {best}; a single run cannot be told apart from any other."
    if found.tied:
        said = f"The best mean is of {best}, which cannot be told apart from {listed(found.tied)}"
    elif found.unknown:
        said = f"The best mean is of {best}, clear of every interval"
    else:
        return f"{found.best} {claim}: {measure.span(estimates[found.best])}, clear of every other interval."
    single = f"; {listed(found.unknown)} ran once, so nothing can be said of it" if len(found.unknown) == 1 else ""
    several = f"; {listed(found.unknown)} ran once each, so nothing can be said of them" if not single else ""
    return said + (single or (several if found.unknown else "")) + "."


def each_model(sentences: Mapping[str, str]) -> str:
    """The sentences of several models as one text; a single model goes without saying."""
    said = {model: sentence for model, sentence in sentences.items() if sentence}
    if len(said) < 2:
        return " ".join(said.values())
    return " ".join(f"{model}: {sentence}" for model, sentence in said.items())
