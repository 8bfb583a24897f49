"""The result of a run: what was learned, what was kept, and what flipped from right to wrong."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from secura.evaluation.retention import LostAnswer, Tally
from secura.experiments.run.train import Losses, RunResult

_FLIPS_SHOWN = 10
_CHARACTERS_SHOWN = 90


def show_result(console: Console, result: RunResult) -> None:
    """Print the table, the first flips, and where everything is."""
    table = Table(title=f"{result.task}: before and after", title_justify="left")
    table.add_column("answered right")
    for heading in ("asked", "before", "after", "change"):
        table.add_column(heading, justify="right")
    new = result.new_task.total
    if new.asked:
        gain = (new.after - new.before) / new.asked
        cells = (_share(new.before, new), _share(new.after, new), f"{100 * gain:+.1f} points")
        table.add_row("new task, held out", str(new.asked), *cells, style="bold")
    _add_losses(table, "new task, nats a token", result.new_task_loss)
    total = result.retention.total
    if total.asked:
        table.add_section()
        table.add_row("knowledge of", style="dim")
        for tally in result.retention.families:
            table.add_row(f"  {tally.family}", *_kept_cells(tally))
        table.add_row("knowledge, all", *_kept_cells(total), style="bold")
    _add_losses(table, "knowledge, nats a token", result.retention_loss)
    console.print(table, highlight=False)
    _show_flips(console, result)
    console.print(f"trained in {result.training_seconds:.0f} s; saved in {result.saved}", highlight=False)


def _add_losses(table: Table, name: str, losses: Losses) -> None:
    if losses.before is not None and losses.after is not None:
        change = f"{losses.after - losses.before:+.3f}"
        table.add_row(name, "", f"{losses.before:.3f}", f"{losses.after:.3f}", change)


def _kept_cells(tally: Tally) -> tuple[str, str, str, str]:
    kept = "knew none" if tally.kept is None else f"{tally.kept:.1%} kept"
    return str(tally.asked), _share(tally.before, tally), _share(tally.after, tally), kept


def _share(right: int, tally: Tally) -> str:
    return f"{right / tally.asked:.1%}"


def _show_flips(console: Console, result: RunResult) -> None:
    flips = result.retention.flips
    if not result.retention.total.asked:
        return
    if not flips:
        console.print("nothing that was right before is wrong now")
        return
    console.print(f"{len(flips)} answers flipped from right to wrong:", highlight=False)
    for flip in _spread(flips)[:_FLIPS_SHOWN]:
        line = Text("  ")
        line.append(_shortened(flip.before.question.prompt), style="dim")
        line.append(f"  right: {_shortened(flip.before.question.answer)}", style="green")
        line.append(f"  before: {_shortened(flip.before.given)}  ")
        line.append(f"after: {_shortened(flip.after.given) or '(nothing)'}", style="red")
        console.print(line, soft_wrap=True)
    if len(flips) > _FLIPS_SHOWN:
        console.print(f"  and {len(flips) - _FLIPS_SHOWN} more in {result.report}", highlight=False)
    else:
        console.print(f"  also in {result.report}", highlight=False)


def _spread(flips: list[LostAnswer]) -> list[LostAnswer]:
    """One of each family in turn, so that the first few show every kind of loss."""
    seen: dict[str, int] = {}
    rank = []
    for flip in flips:
        family = flip.before.question.family
        seen[family] = seen.get(family, 0) + 1
        rank.append(seen[family])
    order = sorted(range(len(flips)), key=lambda index: (rank[index], index))
    return [flips[index] for index in order]


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _CHARACTERS_SHOWN else text[: _CHARACTERS_SHOWN - 1] + "…"
