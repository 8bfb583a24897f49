"""`secura push`: what was made, sent to the Hugging Face Hub."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from secura.report.card.push import Parcel, PushSettings

Option = typer.Option


def push(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of an export, an adapter, a model or a run.")],
    repository: Annotated[str, typer.Argument(metavar="USER/NAME", help="The repository on the Hub.")],
    dry_run: Annotated[bool, Option("--dry-run", help="Show what would be sent; no network is used.")] = False,
    public: Annotated[bool, Option("--public", help="Let everybody see a new repository; otherwise it is private.")] = (
        False
    ),
    message: Annotated[str, Option(help="Message of the commit.")] = "Made by secura",
    debug: Annotated[bool, Option("--debug", help="Show the traceback of an error.")] = False,
) -> int:
    """Check a folder's card and files, and send them to the Hugging Face Hub.

    Exit codes: 0 done, 1 failed, 3 wrong usage, or a folder that cannot be sent as it is.
    """
    del debug  # read by `secura.cli.app.run`
    from secura.plain_console import PlainConsole
    from secura.report.card.push import PushSettings, parcel
    from secura.report.card.push import push as send

    console = PlainConsole()
    settings = PushSettings(folder=folder, repository=repository, public=public, message=message)
    listed = parcel(settings)
    _show(console, settings, listed)
    if dry_run:
        console.print("dry run: nothing was sent", highlight=False)
        return 0
    console.print(f"sent: {send(settings, listed)}", highlight=False, markup=False, soft_wrap=True)
    return 0


def _show(console: "Console", settings: "PushSettings", listed: "Parcel") -> None:
    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    for file in listed.files:
        say(f"{(listed.folder / file).stat().st_size:>15,} bytes  {file}")
    seen_by = "public if it is new" if settings.public else "private if it is new"
    say(f"{listed.size:>15,} bytes in {len(listed.files)} files, to {settings.repository} ({seen_by})")
    if listed.left_out:
        say(f"left here: {', '.join(str(path) for path in listed.left_out)}")
    for note in listed.notes:
        say(f"note: {note}")
