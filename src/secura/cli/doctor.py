"""`secura doctor`: what is installed, what it runs on, and what is wrong with an adapter."""

from pathlib import Path
from typing import Annotated

import typer

Option = typer.Option


def doctor(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="[ADAPTER]...", help="Folders of adapters or runs to examine.")
    ] = None,
    seal: Annotated[
        bool,
        Option("--seal", help="Add a seal to adapters that were saved without one, if nothing is wrong with them."),
    ] = False,
    debug: Annotated[bool, Option("--debug", help="Show the traceback of an error.")] = False,
) -> int:
    """Say what is installed and on which hardware it runs; or what is wrong with an adapter's folder, in one line.

    An adapter with a seal is checked against it.

    Exit codes: 0 nothing is wrong, 1 something is wrong, 3 wrong usage.
    """
    del debug  # read by `secura.cli.app.run`
    from secura.errors import ConfigError
    from secura.experiments.doctor import examine_adapter, examine_installation
    from secura.plain_console import PlainConsole

    if seal and not folders:
        raise ConfigError("--seal needs the folder of an adapter: secura doctor ADAPTER --seal.")
    console = PlainConsole()
    found = [examine_adapter(folder, seal=seal) for folder in folders] if folders else examine_installation()
    for each in found:
        mark = "wrong: " if each.wrong else ""
        console.print(f"{each.name}: {mark}{each.said}", highlight=False, markup=False, soft_wrap=True)
    return 1 if any(each.wrong for each in found) else 0
