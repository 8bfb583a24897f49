"""`secura forget`: what a fine-tune broke."""

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secura.cli.names import names_in
from secura.errors import ConfigError
from secura.file_names import file_name

if TYPE_CHECKING:
    from secura.experiments.forget.run import ForgetSettings

Option = typer.Option


def forget(
    base: Annotated[str, typer.Argument(help="The model before: a folder, a hub id, or the word bundled.")],
    tuned: Annotated[str, typer.Argument(help="The model after: the folder of an adapter, a model or a run.")],
    tasks: Annotated[
        list[str] | None,
        Option(metavar="A,B", help="Tasks, groups or task files; default: the bundled model's knowledge."),
    ] = None,
    retain: Annotated[
        str | None,
        Option(metavar="FILE,TASK", help="Files of rows and names of tasks, separated by commas, as in secura train."),
    ] = None,
    data_dir: Annotated[Path | None, Option(help="Folder with the rows of tasks; default: the hub.")] = None,
    count: Annotated[int, Option(help="Questions of each task, at most.")] = 200,
    out: Annotated[Path | None, Option(help="Folder for forget.json and forget.html.")] = None,
    min_retention: Annotated[
        float | None, Option(help="Exit with code 2 if the questions do not show that this share of knowledge is kept.")
    ] = None,
    confidence: Annotated[float, Option(help="Confidence of intervals and of significance.")] = 0.95,
    seed: Annotated[int, Option(help="Seed that draws the questions and the resamples.")] = 0,
    token_views: Annotated[int, Option(help="How many flips are shown token by token.")] = 20,
    fresh: Annotated[bool, Option("--fresh", help="Ask the base again and ignore the cache.")] = False,
    debug: Annotated[bool, Option("--debug", help="Show the traceback of an error.")] = False,
) -> int:
    """Compare a fine-tuned model with its base: what did the fine-tune break?

    Both are asked the same questions. Exit codes: 0 done, 1 failed, 2 --min-retention
    is not shown to be kept, 3 wrong usage.
    """
    del debug  # read by `secura.cli.app.run`
    from secura.experiments.forget.run import ForgetSettings

    settings = ForgetSettings(
        base=base,
        tuned=tuned,
        tasks=names_in(tasks),
        retain=retain,
        data=data_dir,
        count=count,
        min_retention=min_retention,
        confidence=confidence,
        seed=seed,
        token_views=token_views,
        fresh=fresh,
    )
    return _forget(settings, _report_folder(out, tuned))


def _report_folder(out: Path | None, tuned: str) -> Path:
    """The user's folder, whose earlier report is replaced; or a new one in runs/ named for the tuned model."""
    if out is not None:
        if out.exists() and not out.is_dir():
            raise ConfigError(f"--out {out} is a file; name a folder.")
        return out
    parts = [part for part in Path(tuned).parts if part not in ("adapter", "model", "runs", ".", "..", "/")]
    first = Path("runs") / "-".join(["forget", *map(file_name, parts[-1:])])
    free = (first.with_name(f"{first.name}-{number}") for number in itertools.count(2))
    return next(folder for folder in itertools.chain([first], free) if not folder.exists())


def _forget(settings: "ForgetSettings", folder: Path) -> int:
    from secura.cli.forget_view import show_forgetting
    from secura.experiments.forget.result_json import JSON_FILE, result_as_json
    from secura.experiments.forget.run import forget as compare_models
    from secura.experiments.run.certified import stored_certificate
    from secura.one_writer import one_writer
    from secura.plain_console import PlainConsole
    from secura.report.forget_page import PAGE_FILE, forget_page
    from secura.whole_files import write_json, write_text

    console = PlainConsole()
    saved = [folder / PAGE_FILE, folder / JSON_FILE]
    with one_writer(folder):
        result = compare_models(settings, console)
        write_text(saved[0], forget_page(result, stored_certificate(settings.tuned)))
        write_json(saved[1], result_as_json(result))
    show_forgetting(console, result, saved)
    if result.verdict is None:
        return 0
    console.print(result.verdict.sentence, highlight=False, markup=False, soft_wrap=True)
    return 0 if result.verdict.passed else 2
