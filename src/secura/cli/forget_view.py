"""The result of a comparison on the screen: the finding, the table, and a few of the flips."""

from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from secura.experiments.forget.result import ANSWER_KINDS, Flip, ForgetResult, TaskChange
from secura.report.told_apart import told_apart
from secura.report.wording import (
    details,
    difference_text,
    headline,
    interval_text,
    significance_text,
    smallest_visible_text,
    value_text,
)
from secura.visible import in_one_line, on_one_line, visible

_FLIPS_SHOWN = 10
_CHARACTERS_SHOWN = 90


def show_forgetting(console: Console, result: ForgetResult, saved: Sequence[Path]) -> None:
    """Print the table with the clearest loss first, the flips, the finding, and where everything is."""
    console.print(_task_table(result), highlight=False)
    _show_flips(console, result)
    console.print(Text(headline(result), style="bold red" if result.lost else "bold"), soft_wrap=True)
    for sentence in details(result):
        console.print(sentence, highlight=False, markup=False, soft_wrap=True)
    for note in result.notes:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"everything is in {' and '.join(map(str, saved))}", highlight=False, markup=False, soft_wrap=True)


def _task_table(result: ForgetResult) -> Table:
    table = Table(title="what changed, the clearest loss first", title_justify="left", box=SIMPLE_HEAD)
    table.show_edge, table.padding = False, 0  # 80 columns hold all of it
    table.add_column("task", overflow="fold", min_width=10)
    for heading in ("base", "tuned", "difference", f"{100 * result.confidence:g}% interval"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("significant", no_wrap=True)
    for heading in ("items", "visible"):
        table.add_column(heading, justify="right", no_wrap=True)
    if any(change.lower_is_better for change in result.changes):
        table.caption, table.caption_justify = "perplexity: the difference is in nats a token, lower is better", "left"
    for change in result.changes:
        table.add_row(*_cells(change), style="red" if change.lost else "green" if change.gained else "")
    return table


def _cells(change: TaskChange) -> list[Text]:
    cells = [
        change.name,
        value_text(change, tuned=False),
        value_text(change, tuned=True),
        difference_text(change),
        interval_text(change),
        significance_text(change),
        f"{len(change.before.items):,}",
        smallest_visible_text(change),
    ]
    return [Text(visible(cell)) for cell in cells]  # as text: a name may hold what rich would read as markup


def _show_flips(console: Console, result: ForgetResult) -> None:
    if result.kept is None:
        return
    if not result.flips:
        console.print("no answer went from right to wrong or from wrong to right")
        return
    console.print(_kind_table(result.flips), highlight=False)
    lost = [flip for flip in result.flips if flip.direction == "lost"]
    if not lost:
        return
    console.print("answers that were right and are wrong now:")
    for flip in _spread(lost)[:_FLIPS_SHOWN]:
        line = Text("  ")
        line.append(
            on_one_line(flip.question.prompt, _CHARACTERS_SHOWN, from_end=True), style="dim"
        )  # most prompts end in the question
        answers = in_one_line(flip.question.answer), in_one_line(flip.after.given)
        right, tuned = told_apart(answers, _CHARACTERS_SHOWN)
        line.append(f"  right: {right}", style="green")
        line.append(f"  tuned: {tuned or '(nothing)'}", style="red")
        console.print(line, soft_wrap=True)
    if len(lost) > _FLIPS_SHOWN:
        console.print(f"  and {len(lost) - _FLIPS_SHOWN:,} more", highlight=False)


def _kind_table(flips: Sequence[Flip]) -> Table:
    """Flips by task and by what the right answer is: lost / gained."""
    table = Table(title="flips by kind of right answer, lost / gained", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("task")
    kinds = [kind for kind in ANSWER_KINDS if any(flip.kind == kind for flip in flips)]
    for kind in kinds:
        table.add_column(kind, justify="right")
    for task in dict.fromkeys(flip.task for flip in flips):
        own = [flip for flip in flips if flip.task == task]
        table.add_row(
            Text(visible(task)), *(_lost_and_gained([flip for flip in own if flip.kind == kind]) for kind in kinds)
        )
    table.add_section()
    table.add_row("all", *(_lost_and_gained([flip for flip in flips if flip.kind == kind]) for kind in kinds))
    return table


def _lost_and_gained(flips: Sequence[Flip]) -> str:
    lost = sum(flip.direction == "lost" for flip in flips)
    return f"{lost} / {len(flips) - lost}" if flips else ""


def _spread(flips: Sequence[Flip]) -> list[Flip]:
    """One of each task in turn, so that the first few show every kind of loss."""
    rank: dict[str, int] = {}
    order = []
    for place, flip in enumerate(flips):
        rank[flip.task] = rank.get(flip.task, 0) + 1
        order.append((rank[flip.task], place))
    return [flips[place] for _, place in sorted(order)]
