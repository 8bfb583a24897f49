"""`secura data`: a look at rows before anything is trained on them."""

from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import typer

from secura.cli.helpful_group import HelpfulGroup

if TYPE_CHECKING:
    from rich.console import Console

    from secura.experiments.run.look_at_rows import Look, LookedAt

Option = typer.Option

app = typer.Typer(
    cls=HelpfulGroup, help="Look at rows before training on them.", no_args_is_help=True, rich_markup_mode=None
)


@app.callback()
def data() -> None:
    """Look at rows before training on them."""


@app.command()
def show(
    source: Annotated[
        str, typer.Argument(metavar="FILE", help="File, folder, hub data set or task, as --data of secura train.")
    ],
    model: Annotated[
        str | None, Option(help="Model whose tokenizer is used: folder or hub id; default: the bundled model.")
    ] = None,
    rows: Annotated[int, Option(min=0, help="How many rows are printed.")] = 3,
    assign: Annotated[
        list[str] | None,
        Option("--set", metavar="A.B=C", help="A setting of secura train, such as data.turns=last; may be repeated."),
    ] = None,
    file: Annotated[Path | None, Option("--config", metavar="RUN.yaml", help="Settings of secura train.")] = None,
    trust_tasks: Annotated[
        bool, Option("--trust-tasks", help="Allow Python files that the folder's config.yaml names as tasks to run.")
    ] = False,
    debug: Annotated[bool, Option("--debug", help="Show the traceback of an error.")] = False,
) -> int:
    """Print what would be trained on: rows as the model reads them, with the learned part in ⟦ ⟧, and their lengths.

    No weights are loaded. Exit codes: 0 all rows can be read, 3 a row cannot be read, or wrong usage.
    """
    del debug  # read by `secura.cli.app.run`
    from secura.experiments.run.look_at_rows import look_at_rows
    from secura.experiments.settings.layers import load_config
    from secura.experiments.settings.trusted_tasks import is_settings_of_run, refuse_foreign_tasks
    from secura.plain_console import PlainConsole

    flags = {"model.path": model, "data.path": source}
    config = load_config(None if file is None else str(file), assign or (), flags)
    if file is not None and is_settings_of_run(file, None):
        refuse_foreign_tasks(config, file, trust=trust_tasks, assignments=assign or (), flags=flags)
    look = look_at_rows(config)
    console = PlainConsole()
    for each in look.sources:
        _show_source(console, look, each, rows)
    for note in look.notes:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    return 0


def _show_source(console: "Console", look: "Look", source: "LookedAt", rows: int) -> None:
    from secura.cli.batch_view import learned_in_brackets

    lengths = sorted(len(example.tokens) for example in source.examples)
    learned = sum(example.learned_tokens for example in source.examples)
    mixed = "" if source.share is None else f", {source.share:.0%} of what is learned"
    console.print(
        f"{source.name}: {len(lengths):,} rows{mixed}; {sum(lengths):,} tokens, {learned:,} of them learned",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    nearly_all = lengths[int(0.95 * (len(lengths) - 1))]
    limit = ""
    if look.max_tokens is not None:
        over = sum(length > look.max_tokens for length in lengths)
        limit = f"; {over:,} are longer than the {look.max_tokens:,} tokens that a row may have"
    console.print(
        f"tokens a row: {lengths[0]:,} to {lengths[-1]:,}, half up to {median(lengths):g}, "
        f"95 of 100 up to {nearly_all:,}{limit}",
        highlight=False,
        soft_wrap=True,
    )
    for number, example in enumerate(source.examples[:rows], start=1):
        console.print(
            f"row {number}: {len(example.tokens):,} tokens, {example.learned_tokens:,} learned", highlight=False
        )
        console.print(learned_in_brackets(look.tokenizer, example), soft_wrap=True)
