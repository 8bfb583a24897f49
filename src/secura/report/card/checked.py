"""A card as huggingface_hub reads it: what it refuses must not be written, let alone sent."""

from collections.abc import Iterable
from typing import Any

from huggingface_hub import ModelCard
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from yaml import YAMLError

from secura.errors import DataError


def check_card(text: str) -> ModelCard:
    """Read a card strictly: its front matter, its results, and the names of models and data sets in it.

    Raises:
        DataError: with what is wrong.
    """
    try:
        card = ModelCard(text, ignore_metadata_errors=False)
        data: Any = card.data
        for name in (*_names(data.base_model), *_names(data.datasets)):
            validate_repo_id(name)
    except (ValueError, HFValidationError, YAMLError) as problem:
        raise DataError(f"the card's front matter is not valid: {' '.join(str(problem).split())[:300]}") from problem
    return card


def _names(value: str | Iterable[str] | None) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)
