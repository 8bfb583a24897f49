"""How a sequence is shown: the plan, a line for each stage, and the table at the end."""

import time
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from secura.evaluation.retention_metrics import average_accuracy, backward_transfer, forgetting_best_minus_last
from secura.evaluation.tally import at_least_cell, kept_cell, kept_phrase, percent, together
from secura.experiments.sequence.matrix import GroupScore, QuestionGroup, SequenceScores
from secura.experiments.sequence.run import OnStage, PreparedSequence
from secura.experiments.sequence.undo import Undone
from secura.experiments.settings.sequence import SequenceConfig
from secura.visible import visible


def show_plan(console: Console, sequence: PreparedSequence) -> None:
    """One line on what is about to happen, and the notes."""
    run = sequence.run
    done = f", {sequence.first_stage} of them done" if sequence.first_stage else ""
    method = run.config.method
    console.print(
        f"{method.name} with {run.config.strategy.name}, boundary {method.boundary}, learning rate "
        f"{run.learning_rate:.1e}: {len(run.tasks)} tasks{done}, in {run.folder}",
        highlight=False,
        soft_wrap=True,
    )
    for note in sequence.notes:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)


def stage_shower(console: Console, first: int) -> OnStage:
    """A line for each stage after the first, with the time that is left."""
    began = time.monotonic()

    def show(matrix: SequenceScores, stage: int, seconds: float) -> None:
        knowledge = _share(matrix.knowledge(stage))
        if not stage:
            console.print(f"base model: knowledge {knowledge}", highlight=False)
            return
        name = matrix.tasks[stage - 1]
        learned = _share(matrix.share(stage, QuestionGroup("task", name)))
        earlier = _share(matrix.mean_of_tasks(stage, matrix.tasks[: stage - 1]))
        per_stage = (time.monotonic() - began) / max(1, stage - first)
        left = per_stage * (len(matrix.tasks) - stage)
        console.print(
            f"{stage}/{len(matrix.tasks)} {visible(name)}: learned {learned}, earlier tasks {earlier}, "
            f"knowledge {knowledge}; {seconds:.0f} s, about {left / 60:.0f} min left",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )

    return show


def show_sequence(console: Console, folder: Path, config: SequenceConfig, matrix: SequenceScores) -> None:
    """One row for each stage: what was learned, what is left of it at the end, and knowledge."""
    scored = [stage for stage in sorted(matrix.cells) if matrix.cells[stage]]
    if not scored:
        console.print("nothing is scored yet")
        return
    last = scored[-1]
    table = Table(title=f"{config.method.name}, {config.strategy.name}", title_justify="left", box=SIMPLE_HEAD)
    table.show_edge, table.padding = False, 0  # 80 columns hold all of it
    table.add_column("after", overflow="fold")
    for heading in ("before it", "just learned", f"after task {last}", "knowledge", "kept", "at least"):
        table.add_column(heading, justify="right")
    for stage in scored:
        name = matrix.tasks[stage - 1] if stage else "base model"
        group = QuestionGroup("task", name)
        cells = [matrix.share(max(stage - 1, 0), group), matrix.share(stage, group), matrix.share(last, group)]
        shown = [_share(cell) for cell in cells] if stage else ["", "", ""]
        kept = together(matrix.knowledge_kept(stage).values())
        of_base = [kept_cell(kept), at_least_cell(kept)] if stage and kept.asked else ["", ""]
        table.add_row(Text(visible(name)), *shown, _share(matrix.knowledge(stage)), *of_base)
    console.print(table, highlight=False)
    kept = together(matrix.knowledge_kept(last).values())
    if last and kept.asked:
        console.print(
            f"knowledge kept of the {kept.before:,} answers that the base model has right: {kept_phrase(kept)}; "
            f"{kept.gained:,} others gained",
            highlight=False,
            soft_wrap=True,
        )
    scores = matrix.task_matrix()
    console.print(
        f"the {last} tasks learned: average accuracy {_share(average_accuracy(scores).mean)}, backward transfer "
        f"{_share(backward_transfer(scores).mean)}, forgetting (best minus last) "
        f"{_share(forgetting_best_minus_last(scores).mean)}; all scores in {folder}/matrix.json",
        highlight=False,
        soft_wrap=True,
    )


def show_undone(console: Console, undone: Undone) -> None:
    """Every group whose score moved, and where the adapter is."""
    table = Table(title=f"without {undone.task}", title_justify="left")
    for heading in ("asked", "with it", "without it"):
        table.add_column(heading, justify="left" if heading == "asked" else "right")
    same = 0
    for group, after in undone.after.items():
        before = undone.before.get(group, GroupScore())
        if before.right == after.right and group != QuestionGroup("task", undone.task):
            same += 1
            continue
        table.add_row(Text(visible(group.name)), _share(before.share_right), _share(after.share_right))
    console.print(table, highlight=False)
    console.print(f"{same} groups are unchanged; the adapter without it is in {undone.saved}", highlight=False)


def _share(share: float | None) -> str:
    # Rounded as what was kept is, which stands beside it; a loss is below 0.
    return "–" if share is None else percent(share) if share >= 0 else f"{share:.1%}"
