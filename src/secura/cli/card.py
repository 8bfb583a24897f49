"""`secura card`: a model card for what a run has made."""

from pathlib import Path
from typing import Annotated

import typer

Option = typer.Option


def card(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a finished secura train or sequence.")],
    force: Annotated[bool, Option("--force", help="Replace a card that was written or edited by hand.")] = False,
    show_question: Annotated[
        bool, Option("--show-question", help="Let its snippet ask a held-out question of your data.")
    ] = False,
    debug: Annotated[bool, Option("--debug", help="Show the traceback of an error.")] = False,
) -> int:
    """Write a model card in the Hub's format beside the adapter or model of a run.

    Exit codes: 0 done, 1 failed, 3 wrong usage.
    """
    del debug  # read by `secura.cli.app.run`
    from secura.plain_console import PlainConsole
    from secura.report.card.finished_run import read_run
    from secura.report.card.model_card import write_card

    path = write_card(read_run(folder), force=force, show_question=show_question)
    console = PlainConsole()
    console.print(f"card: {path}", highlight=False, markup=False, soft_wrap=True)
    console.print("license and language are left to you; see the top of the file", highlight=False)
    return 0
