"""The first batch as the model reads it, with what it learns from marked."""

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from secura.cli.visible import visible
from secura.training.examples import Example

_ROWS_SHOWN = 2
_CHARACTERS_SHOWN = 400


def show_batch(console: Console, tokenizer: PreTrainedTokenizerBase, batch: Sequence[Example]) -> None:
    """Print the first rows of a batch, special tokens included; ⟦ ⟧ encloses what the loss falls on."""
    tokens = sum(len(example.tokens) for example in batch)
    learned = sum(len(example.tokens) - example.learned_from for example in batch)
    console.print(
        f"first batch: {len(batch)} rows, {tokens:,} tokens, {learned:,} of them learned, shown in ⟦ ⟧",
        highlight=False,
    )
    for example in batch[:_ROWS_SHOWN]:
        prompt = str(tokenizer.decode(example.tokens[: example.learned_from]))
        answer = str(tokenizer.decode(example.tokens[example.learned_from :]))
        line = Text("  ")
        line.append(_shortened(prompt, from_end=True), style="dim")
        line.append("⟦" + _shortened(answer, from_end=False) + "⟧", style="bold green")
        console.print(line, soft_wrap=True)


def _shortened(text: str, *, from_end: bool) -> str:
    text = visible(text).replace("\n", "⏎")
    if len(text) <= _CHARACTERS_SHOWN:
        return text
    return "…" + text[-_CHARACTERS_SHOWN:] if from_end else text[:_CHARACTERS_SHOWN] + "…"
