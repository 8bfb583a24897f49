"""The first batch as the model reads it, with what it learns from marked."""

from collections.abc import Sequence
from itertools import groupby

from rich.console import Console
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from secura.training.examples import IGNORED, Example
from secura.visible import visible

_ROWS_SHOWN = 2
_CHARACTERS_SHOWN = 400


def show_batch(console: Console, tokenizer: PreTrainedTokenizerBase, batch: Sequence[Example]) -> None:
    """Print the first rows of a batch, special tokens included; ⟦ ⟧ encloses what the loss falls on."""
    tokens = sum(len(example.tokens) for example in batch)
    learned = sum(example.learned_tokens for example in batch)
    console.print(
        f"first batch: {len(batch)} rows, {tokens:,} tokens, {learned:,} of them learned, shown in ⟦ ⟧",
        highlight=False,
    )
    for example in batch[:_ROWS_SHOWN]:
        console.print(learned_in_brackets(tokenizer, example), soft_wrap=True)


def learned_in_brackets(tokenizer: PreTrainedTokenizerBase, example: Example) -> Text:
    """A row as one line: what the loss falls on in ⟦ ⟧, long parts shortened."""
    line = Text("  ")
    for is_learned, places in groupby(enumerate(example.labels), lambda each: each[1] != IGNORED):
        text = str(tokenizer.decode([example.tokens[place] for place, _ in places]))
        if is_learned:
            line.append("⟦" + _shortened(text, from_end=False) + "⟧", style="bold green")
        else:
            line.append(_shortened(text, from_end=True), style="dim")
    return line


def _shortened(text: str, *, from_end: bool) -> str:
    text = visible(text).replace("\n", "⏎")
    if len(text) <= _CHARACTERS_SHOWN:
        return text
    return "…" + text[-_CHARACTERS_SHOWN:] if from_end else text[:_CHARACTERS_SHOWN] + "…"
