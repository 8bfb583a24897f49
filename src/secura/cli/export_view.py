"""What an export lost, and where it is, on the screen."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from secura.experiments.export import Effect, ExportResult
from secura.export.lora import Lora

_SHOWN_LAYERS = 12


def show_loss(console: Console, lora: Lora, effects: Sequence[Effect]) -> None:
    """What each layer of a LoRA loses, the worst first, and what that does to scores."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, title=f"a LoRA of rank {lora.rank}", title_justify="left")
    table.add_column("layer", overflow="fold")
    table.add_column("change lost", justify="right")
    worst = sorted(lora.layers, key=lambda layer: -layer.lost)
    for layer in worst[:_SHOWN_LAYERS]:
        table.add_row(layer.name, "exact" if layer.exact else f"{layer.lost:.2%}")
    console.print(table, highlight=False)
    if len(worst) > _SHOWN_LAYERS:
        console.print(f"and {len(worst) - _SHOWN_LAYERS} layers that lose less", highlight=False)
    if effects:
        console.print(_scores(effects), highlight=False)


def _scores(effects: Sequence[Effect]) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, title="the same questions", title_justify="left")
    table.add_column("task", overflow="fold")
    for heading in ("model", "LoRA", "change"):
        table.add_column(heading, justify="right")
    for effect in effects:
        change = f"{effect.export - effect.tuned:+.3f}".replace("-", "−")
        table.add_row(effect.task, f"{effect.tuned:.3f}", f"{effect.export:.3f}", change)
    return table


def show_export(console: Console, result: ExportResult) -> None:
    """What was written, and what to know of it."""
    if result.lora is not None:
        exact = "exact: its factors are those that were trained" if result.lora.exact else "not exact: see above"
        console.print(f"{len(result.lora.layers)} layers of rank {result.lora.rank}, {exact}", highlight=False)
    for note in result.notes:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"{result.form}: {result.folder}", highlight=False, markup=False, soft_wrap=True)
