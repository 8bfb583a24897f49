"""`secura sequence`: tasks one after the other, and what can be asked of a finished sequence."""

from pathlib import Path
from typing import Annotated

import typer

from secura.cli.run_by_default import RunByDefault

Option = typer.Option
TrustTasks = Annotated[
    bool, Option("--trust-tasks", help="Allow Python files that the folder's config.yaml names as tasks to run.")
]


app = typer.Typer(
    cls=RunByDefault,
    help="Learn tasks one after another and score everything after each: secura sequence SEQ.yaml",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def run(
    file: Annotated[Path, typer.Argument(metavar="SEQ.yaml", help="Settings; see --print-config.")],
    assign: Annotated[
        list[str] | None, Option("--set", metavar="A.B=C", help="Change one setting; may be repeated.")
    ] = None,
    out: Annotated[str | None, Option(help="Folder of the sequence.")] = None,
    method: Annotated[str | None, Option(help="A method of secura train.")] = None,
    strategy: Annotated[
        str | None, Option(help="sequential, replay, ewc, ilora, kl_anchor, lwf, o_lora or own_text.")
    ] = None,
    trust_tasks: TrustTasks = False,
    dry_run: Annotated[bool, Option("--dry-run", help="Check everything, train nothing.")] = False,
    print_config: Annotated[bool, Option("--print-config", help="Print the settings as YAML.")] = False,
    debug: Annotated[bool, Option("--debug", help="Show the traceback of an error.")] = False,
) -> int:
    """Learn the tasks of a file in order; after an interruption, the same command continues.

    Exit codes: 0 done, 1 failed or stopped by Ctrl-C, 2 retention.min_retention
    is not shown to be kept, 3 wrong usage.
    """
    del debug
    from secura.experiments.settings.layers import config_as_yaml, load_config_of
    from secura.experiments.settings.sequence import SequenceConfig
    from secura.experiments.settings.trusted_tasks import is_settings_of_run, refuse_foreign_tasks

    flags = {"out": out, "method.name": method, "strategy.name": strategy}
    config = load_config_of(SequenceConfig, str(file), assign or (), flags)
    if is_settings_of_run(file, out):
        refuse_foreign_tasks(config, file, trust=trust_tasks, assignments=assign or (), flags=flags)
    if print_config:
        print(config_as_yaml(config), end="")
        return 0
    from secura.cli.sequence_view import show_plan, show_sequence, stage_shower
    from secura.evaluation.retention_gate import judge
    from secura.experiments.run.rows import ASK_MORE_KNOWLEDGE
    from secura.experiments.sequence.run import prepare_sequence, run_sequence
    from secura.plain_console import PlainConsole

    console = PlainConsole()
    prepared = prepare_sequence(config, dry_run=dry_run)
    show_plan(console, prepared)
    if dry_run:
        console.print("dry run: all checks passed, nothing was trained")
        return 0
    matrix = run_sequence(prepared, console, stage_shower(console, prepared.first_stage))
    show_sequence(console, prepared.run.folder, prepared.run.config, matrix)
    limit = config.retention.min_retention
    if limit is None:
        return 0
    verdict = judge(matrix.knowledge_kept(len(matrix.tasks)), limit, ask_more=ASK_MORE_KNOWLEDGE)
    console.print(verdict.sentence, highlight=False, markup=False, soft_wrap=True)
    return 0 if verdict.passed else 2


@app.command()
def log(folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a sequence.")]) -> int:
    """Print the ledger: which tasks can be removed, and every score so far."""
    from secura.cli.sequence_view import show_sequence
    from secura.experiments.sequence.opened import open_sequence
    from secura.plain_console import PlainConsole

    console = PlainConsole()
    opened = open_sequence(folder, trust_tasks=True)  # no task is read
    show_sequence(console, folder, opened.config, opened.matrix)
    console.print(f"in the ledger: {', '.join(opened.ledger) or 'nothing'}", highlight=False)
    return 0


@app.command("undo")
def undo_(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a sequence.")],
    task: Annotated[str, typer.Argument(metavar="TASK", help="A task of its ledger.")],
    trust_tasks: TrustTasks = False,
) -> int:
    """Remove one task's change from the model, and score the result."""
    from secura.cli.sequence_view import show_undone
    from secura.experiments.sequence.undo import undo_task
    from secura.plain_console import PlainConsole

    show_undone(PlainConsole(), undo_task(folder, task, trust_tasks=trust_tasks))
    return 0


@app.command()
def bisect(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a sequence.")],
    family: Annotated[str, Option("--family", help="A family of knowledge.")],
    below: Annotated[float, Option(help="Broken is below this share of the base model's score.")] = 0.9,
    questions: Annotated[int, Option(help="Questions asked of each model, at most.")] = 200,
    trust_tasks: TrustTasks = False,
) -> int:
    """Find the task that broke a family of knowledge."""
    from secura.experiments.sequence.bisect import bisect_family
    from secura.plain_console import PlainConsole

    found = bisect_family(folder, family, below=below, questions=questions, trust_tasks=trust_tasks)
    console = PlainConsole()
    if found.task is None:
        console.print(
            f"{family} was not broken: {found.after:.1%} right at the end, {found.base:.1%} before any task "
            f"({found.asked} questions)",
            highlight=False,
        )
        return 0
    console.print(
        f"{found.task} broke {family}: {found.before:.1%} right before it, {found.after:.1%} after it, "
        f"{found.base:.1%} by the base model ({found.asked} questions, {found.models_asked} models asked)",
        highlight=False,
    )
    return 0
