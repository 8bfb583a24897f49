"""What a file would be trained on, read by a model's tokenizer alone: no weights are loaded."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from secura.experiments.models.loading import load_tokenizer_and_context
from secura.experiments.run.rows import examples_of, notes_on_rows, read_rows
from secura.experiments.settings.run import RunConfig
from secura.training.examples import Example


@dataclass(frozen=True, kw_only=True)
class LookedAt:
    """The rows of one source."""

    name: str
    """Where they come from."""
    examples: Sequence[Example]
    """All of them in tokens, nothing dropped or cut."""
    share: float | None
    """Their share of all rows that are learned, where they are mixed in."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What a run would be trained on."""

    tokenizer: PreTrainedTokenizerBase
    """What the rows are read by."""
    sources: Sequence[LookedAt]
    """What is to be learned, then each source of `data.mix`."""
    max_tokens: int | None
    """The longest row: `data.max_length`, or the model's context; None where neither is known."""
    notes: Sequence[str]
    """What the user should know."""


def look_at_rows(config: RunConfig) -> Look:
    """Read what `secura train` would be trained on.

    Raises:
        InputError: for a setting, file or row that cannot be used.
    """
    (rows,) = read_rows(config)
    tokenizer, context = load_tokenizer_and_context(config.model)
    turns = config.data.turns
    sources = [
        LookedAt(name=rows.name, examples=examples_of(rows.train, tokenizer, turns, source=rows.name), share=None)
    ]
    for mixed in rows.mixed:
        examples = examples_of(mixed.rows, tokenizer, turns, source=mixed.name)
        sources.append(LookedAt(name=mixed.name, examples=examples, share=mixed.share))
    return Look(
        tokenizer=tokenizer,
        sources=sources,
        max_tokens=config.data.max_length or context,
        notes=notes_on_rows(rows, tokenizer, turns),
    )
