"""How a model is loaded and asked, as a snippet of Python that runs as it stands in the card's folder."""

import re
from pathlib import Path

from jinja2 import Environment

from secura.json_text import read_json
from secura.report.templates import templates

A_PROMPT = "What is the capital of France?"
"""What a snippet asks unless it is to show a question of the data."""

_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def card_templates() -> Environment:
    """The templates of cards."""
    return templates(escaped=False)


def hub_name(base: str) -> str | None:
    """A base model's name on the Hub; None where it is bundled or lies in a folder."""
    return base if _HUB_NAME.fullmatch(base) and not Path(base).exists() else None


def loading_snippet(folder: Path, *, base: str | None, is_own_method: bool, prompt: str = A_PROMPT) -> str:
    """The snippet, in its fence.

    Args:
        folder: what is loaded, with its tokenizer.
        base: of an adapter: a name on the Hub, a folder, or `bundled`; None for a whole model.
        is_own_method: whether the adapter is one of SECURA.
        prompt: what it is asked, through the chat template where there is one.
    """
    return (
        card_templates()
        .get_template("loading.md.jinja")
        .render(
            is_adapter=base is not None,
            own_adapter=is_own_method,
            is_bundled=base == "bundled",
            base_line="" if base is None else _base_line(base),
            is_chat=_has_chat_template(folder),
            prompt=prompt,
        )
        .strip()
    )


def _base_line(base: str) -> str:
    if base == "bundled":
        return "BASE = bundled_model_path()"
    if hub_name(base):
        return f"BASE = {base!r}"
    return f"BASE = {Path(base).name!r}  # the folder of the base model"


def _has_chat_template(folder: Path) -> bool:
    """Whether a saved tokenizer has one: a file of its own, or an entry of its settings."""
    if (folder / "chat_template.jinja").is_file():
        return True
    settings = folder / "tokenizer_config.json"
    return settings.is_file() and bool(read_json(settings).get("chat_template"))
