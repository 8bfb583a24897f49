"""`secura anchors`: a model writes the text that training will hold it to."""

from pathlib import Path
from typing import Annotated

import typer

Option = typer.Option


def anchors(
    out: Annotated[Path, Option(help="Folder for the bank.")],
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="Folder, GGUF file or hub id; default: the bundled model.")
    ] = None,
    prompts: Annotated[
        str | None,
        Option(
            metavar="FILE", help="Rows whose prompts the model answers, in the same forms as --data of secura train."
        ),
    ] = None,
    also: Annotated[str | None, Option(metavar="FILE", help="Rows that are added to the bank unchanged.")] = None,
    texts: Annotated[int | None, Option(help="How many texts; default: by the model's size.")] = None,
    tokens: Annotated[int | None, Option(help="Tokens of the longest text; default: by the model's size.")] = None,
    seed: Annotated[int, Option(help="Seed of the sampling; the same seed gives the same texts.")] = 0,
    debug: Annotated[bool, Option("--debug", help="Show the traceback of an error.")] = False,
) -> int:
    """Let a model write an anchor bank: its own text, which keeps it close to itself while it learns something new.

    After an interruption, the same command continues; it also repairs a damaged teacher cache. secura train --strategy
    own_text makes a bank automatically; to use another, give --set strategy.settings.bank=DIR.

    Exit codes: 0 done, 1 failed or stopped by Ctrl-C, 3 wrong usage.
    """
    del debug  # read by `secura.cli.app.run`
    from secura.experiments.anchors import AnchorSettings, make_anchors
    from secura.plain_console import PlainConsole

    console = PlainConsole()
    path = None if model == "bundled" else model
    settings = AnchorSettings(model=path, out=out, prompts=prompts, given=also, texts=texts, tokens=tokens, seed=seed)
    bank = make_anchors(settings, console)
    kinds = {kind: sum(text.kind == kind for text in bank.texts) for kind in dict.fromkeys(t.kind for t in bank.texts)}
    told = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    console.print(
        f"{len(bank.texts)} texts of {bank.tokens:,} tokens ({told}), of which training leaves "
        f"{len(bank.texts) - len(bank.trained_on)} aside, are in {out}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    return 0
