"""`secura dial`: what a fine-tune learned, turned down until enough is kept."""

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secura.cli.exit_codes import BELOW_RETENTION, DONE
from secura.errors import ConfigError

if TYPE_CHECKING:
    from secura.experiments.dial.run import DialSettings

Option = typer.Option


def dial(
    base: Annotated[str, typer.Argument(help="The model before: a folder, a hub id, or the word bundled.")],
    tuned: Annotated[str, typer.Argument(help="The model after: the folder of an adapter, a model or a run.")],
    tasks: Annotated[
        list[str] | None,
        Option(metavar="A,B", help="Where gain is measured: tasks, groups, or a file; default: a run's own rows."),
    ] = None,
    retain: Annotated[
        list[str] | None,
        Option(metavar="A,B", help="What must be kept: tasks, groups, or a file; default: a run's own questions."),
    ] = None,
    at: Annotated[
        str, Option(metavar="S,S", help="Points to ask: 0 is the base, 1 all that was learned.")
    ] = "0.25,0.5,0.75,1",
    refine: Annotated[int, Option(help="Further points to ask between the two around --keep.")] = 2,
    keep: Annotated[
        float | None, Option(help="The share of right answers to keep, such as 0.98: chooses a point and certifies it.")
    ] = None,
    write: Annotated[
        Path | None, Option(metavar="DIR", help="Write the chosen point there, as an adapter or a model.")
    ] = None,
    merged: Annotated[bool, Option("--merged", help="Write an adapter's point as a whole model.")] = False,
    data_dir: Annotated[Path | None, Option(help="Folder with the rows of tasks; default: the hub.")] = None,
    count: Annotated[int, Option(help="Questions of each task, at most.")] = 200,
    out: Annotated[Path | None, Option(help="Folder for dial.json and dial.html.")] = None,
    confidence: Annotated[float, Option(help="Confidence of the certificate and of intervals.")] = 0.95,
    seed: Annotated[int, Option(help="Seed that draws and splits the questions.")] = 0,
    fresh: Annotated[bool, Option("--fresh", help="Ask again and ignore the cache.")] = False,
    trust_tasks: Annotated[
        bool, Option("--trust-tasks", help="Allow Python files that the run's config.yaml names as tasks to run.")
    ] = False,
    debug: Annotated[bool, Option("--debug", help="Show the traceback of an error.")] = False,
) -> int:
    """Scale what was learned by several factors, and see what is gained and kept at each.

    Works on any PEFT adapter and on whole models, after training. Exit codes: 0 done, 1 failed, 2 no point is shown
    to keep --keep, 3 wrong usage.
    """
    del debug  # read by `secura.cli.app.run`
    from secura.experiments.dial.run import DialSettings

    settings = DialSettings(
        base=base,
        tuned=tuned,
        tasks=_names(tasks),
        retain=_names(retain),
        data=data_dir,
        count=count,
        at=_points(at),
        refine=refine,
        keep=keep,
        confidence=confidence,
        seed=seed,
        fresh=fresh,
        write=write,
        merged=merged,
        trust_tasks=trust_tasks,
    )
    return _dial(settings, _report_folder(out, tuned))


def _names(given: list[str] | None) -> tuple[str, ...]:
    return tuple(name.strip() for each in given or () for name in each.split(",") if name.strip())


def _points(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise ConfigError(f"--at {text} is no list of numbers; name points such as 0.25,0.5,0.75,1.") from None


def _report_folder(out: Path | None, tuned: str) -> Path:
    """The user's folder, whose earlier report is replaced; or a new one in runs/ named for the tuned model."""
    if out is not None:
        if out.exists() and not out.is_dir():
            raise ConfigError(f"--out {out} is a file; name a folder.")
        return out
    parts = [part for part in Path(tuned).parts if part not in ("adapter", "model", "runs", ".", "..", "/")]
    first = Path("runs") / "-".join(["dial", *parts[-1:]])
    free = (first.with_name(f"{first.name}-{number}") for number in itertools.count(2))
    return next(folder for folder in itertools.chain([first], free) if not folder.exists())


def _dial(settings: "DialSettings", folder: Path) -> int:
    from secura.cli.dial_view import show_dial
    from secura.experiments.dial.result import JSON_FILE, result_as_json
    from secura.experiments.dial.run import dial as turn
    from secura.plain_console import PlainConsole
    from secura.report.dial_page import PAGE_FILE, dial_page
    from secura.whole_files import write_json, write_text

    console = PlainConsole()
    result = turn(settings, console)
    saved = [folder / PAGE_FILE, folder / JSON_FILE]
    write_text(saved[0], dial_page(result))
    write_json(saved[1], result_as_json(result))
    show_dial(console, result, saved)
    return DONE if result.certificate is None or result.certificate.certified else BELOW_RETENTION
