"""The result of a run: what was learned, what was kept, and what flipped from right to wrong."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from secura.evaluation.retention import LostAnswer
from secura.evaluation.tally import CONFIDENCE, Tally, at_least_cell, kept_cell, percent
from secura.experiments.run.train import Losses, RunResult
from secura.report.told_apart import told_apart
from secura.visible import in_one_line, on_one_line, visible

_FLIPS_SHOWN = 10
_CHANGED_SHOWN = 3
_CHARACTERS_SHOWN = 90


def show_result(console: Console, result: RunResult) -> None:
    """Print what was learned, what was kept, the first flips, and where everything is."""
    _show_new_task(console, result)
    _show_kept(console, result)
    _show_flips(console, result)
    _show_changed(console, result)
    if result.certificate is not None:
        verdict = result.certificate
        console.print(verdict.sentence, style="bold green" if verdict.certified else "bold red", highlight=False)
        console.print(verdict.explanation, style="dim", highlight=False)
    console.print(f"trained in {result.training_seconds:.0f} s; saved in {result.saved}", highlight=False, markup=False)


def _show_new_task(console: Console, result: RunResult) -> None:
    new = result.new_task.total
    table = _table(f"{visible(result.task)}: what was learned", "held out", "asked", "before", "after", "change")
    if new.asked:
        gain = f"{100 * (new.after - new.before) / new.asked:+.1f} points"
        table.add_row("answered right", str(new.asked), _share(new.before, new), _share(new.after, new), gain)
    _add_losses(table, result.new_task_loss)
    if table.row_count:
        console.print(table, highlight=False)


def _show_kept(console: Console, result: RunResult) -> None:
    families, total = result.retention.families, result.retention.total
    headings = ("knowledge of", "asked", "before", "after", "kept", "at least", "gained")
    table = _table("what was kept of what the base model answers right", *headings)
    if total.asked:
        table.caption = f"at least: lower end of the {CONFIDENCE:.0%} interval; gained: right only after"
        for family, tally in families.items():
            table.add_row(Text(visible(family)), *_kept_cells(tally))
        table.add_section()
        table.add_row("all", *_kept_cells(total), style="bold")
    _add_losses(table, result.retention_loss)
    if table.row_count:
        console.print(table, highlight=False)


def _table(title: str, *headings: str) -> Table:
    table = Table(title=Text(title, style="table.title"), title_justify="left", caption_justify="left")
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place else "left")
    return table


def _add_losses(table: Table, losses: Losses) -> None:
    if losses.before is not None and losses.after is not None:
        change = f"{losses.after - losses.before:+.3f}"
        table.add_row("nats a token", "", f"{losses.before:.3f}", f"{losses.after:.3f}", change)


def _kept_cells(tally: Tally) -> tuple[str, ...]:
    shares = _share(tally.before, tally), _share(tally.after, tally)
    return str(tally.asked), *shares, kept_cell(tally), at_least_cell(tally), str(tally.gained)


def _share(right: int, tally: Tally) -> str:
    return percent(right / tally.asked)  # rounded as what was kept is, which stands beside it


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
        line.append(on_one_line(flip.before.question.prompt, _CHARACTERS_SHOWN), style="dim")
        answers = flip.before.question.answer, flip.before.given, flip.after.given
        right, before, after = told_apart([in_one_line(text) for text in answers], _CHARACTERS_SHOWN)
        line.append(f"  right: {right}", style="green")
        line.append(f"  before: {before}  ")
        line.append(f"after: {after or '(nothing)'}", style="red")
        console.print(line, soft_wrap=True)
    if len(flips) > _FLIPS_SHOWN:
        console.print(f"  and {len(flips) - _FLIPS_SHOWN} more in {result.report}", highlight=False)
    else:
        console.print(f"  also in {result.report}", highlight=False)


def _show_changed(console: Console, result: RunResult) -> None:
    """The open prompts whose answers changed most: what a new task's style does to other talk."""
    if not result.changed:
        return
    console.print("open prompts whose answers changed most:")
    for answer in result.changed[:_CHANGED_SHOWN]:
        line = Text("  ")
        line.append(visible(answer.prompt), style="dim")
        line.append(f"\n    before: {on_one_line(answer.before, _CHARACTERS_SHOWN) or '(nothing)'}")
        line.append(f"\n    after:  {on_one_line(answer.after, _CHARACTERS_SHOWN) or '(nothing)'}", style="bold")
        console.print(line, soft_wrap=True)


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
