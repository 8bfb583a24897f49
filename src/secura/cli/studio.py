"""`secura studio`: the runs of a folder as web pages."""

import sys
import webbrowser
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from secura.errors import ConfigError
from secura.visible import visible

Option = typer.Option

_NEEDED = ("starlette", "uvicorn")


def studio(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Folder of the runs.")] = Path("runs"),
    port: Annotated[int | None, Option(help="8765 if left out, or a free one; 0 is a free one.")] = None,
    host: Annotated[str, Option(help="Interface; another than 127.0.0.1 lets other machines in.")] = "127.0.0.1",
    show: Annotated[bool, Option("--open", help="Open it in the browser, where there is one.")] = False,
    debug: Annotated[bool, Option("--debug", help="Show the traceback of an error.")] = False,
) -> int:
    """Watch, start, stop and talk to the runs of a folder in the browser.

    The address that it prints holds a key. Ctrl-C closes the studio; runs that it started continue.

    Exit codes: 0 closed, 3 wrong usage.
    """
    del debug  # read by `secura.cli.app.run`
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise ConfigError(f"the studio needs {' and '.join(missing)}, not installed; run pip install 'secura[studio]'.")
    from secura.studio.access import LOOPBACK
    from secura.studio.serve import open_studio

    opened = open_studio(folder, host=host, port=port)
    if host not in LOOPBACK:
        print(
            f"secura: warning: --host {host} lets other machines in. Whoever has the address can start runs on this "
            "one, and nothing is encrypted. An SSH tunnel to 127.0.0.1 is safer.",
            file=sys.stderr,
        )
    print(f"studio: {opened.address}", flush=True)
    print("The address holds the key; keep it to yourself. Ctrl-C closes the studio; runs continue.", flush=True)
    if show:
        webbrowser.open(opened.address)
    with suppress(KeyboardInterrupt):  # the usual end, and none that failed
        opened.serve()
    going_on = [started.name for started in opened.studio.processes.going_on()]
    more = f"; going on: {', '.join(going_on)}. secura studio {folder} shows them again." if going_on else ""
    print(visible(f"closed{more}"))
    return 0
