"""`secura eval`: how well one model does on tasks."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from secura.cli.names import names_in
from secura.errors import ConfigError
from secura.visible import visible

if TYPE_CHECKING:
    from secura.experiments.evaluate import EvalSettings

Option = typer.Option


def evaluate(
    model: Annotated[str | None, Option(help="Folder or hub id; default: the bundled model.")] = None,
    adapter: Annotated[str | None, Option(help="Folder of an adapter for that model, or of a run.")] = None,
    tasks: Annotated[
        list[str] | None,
        Option(metavar="A,B", help="Tasks, groups or task files; default: the bundled model's knowledge."),
    ] = None,
    lm_eval: Annotated[
        list[str] | None, Option("--lm-eval", metavar="A,B", help="Tasks of lm-evaluation-harness.")
    ] = None,
    lm_eval_chat: Annotated[
        bool, Option("--lm-eval-chat", help="Put the harness's prompts through the chat template.")
    ] = False,
    data_dir: Annotated[Path | None, Option(help="Folder with the rows of tasks; default: the hub.")] = None,
    count: Annotated[int | None, Option(help="Items of each task, at most.")] = None,
    batch_size: Annotated[
        str, Option(metavar="N|auto", help="Rows at once; auto halves it when memory runs out.")
    ] = "auto",
    seed: Annotated[int, Option(help="Seed that draws the items.")] = 0,
    out: Annotated[Path | None, Option(help="Folder for evaluation.json.")] = None,
    export_lm_eval: Annotated[
        Path | None,
        Option(metavar="DIR", help="Folder: write the tasks for lm-evaluation-harness there and score nothing."),
    ] = None,
    debug: Annotated[bool, Option("--debug", help="Show the traceback of an error.")] = False,
) -> int:
    """Score a model, with an adapter or without, on tasks.

    Exit codes: 0 done, 1 failed or stopped by Ctrl-C, 3 wrong usage.
    """
    del debug  # read by `secura.cli.app.run`
    from secura.experiments.evaluate import EvalSettings

    settings = EvalSettings(
        model=model,
        adapter=adapter,
        tasks=names_in(tasks),
        harness_tasks=names_in(lm_eval),
        harness_chat=lm_eval_chat,
        data=data_dir,
        count=count,
        seed=seed,
        batch_size=_batch_size(batch_size),
        out=out,
    )
    return _evaluate(settings) if export_lm_eval is None else _export(settings, export_lm_eval)


def _batch_size(given: str) -> int | Literal["auto"]:
    if given == "auto":
        return "auto"
    try:
        return int(given)
    except ValueError:
        raise ConfigError(f"--batch-size is {given!r}; give a number of rows, at least 1, or auto.") from None


def _evaluate(settings: "EvalSettings") -> int:
    from secura.cli.evaluate_view import show_scores
    from secura.experiments.evaluate import evaluate as score_model
    from secura.plain_console import PlainConsole

    console = PlainConsole()
    show_scores(console, score_model(settings, console))
    return 0


def _export(settings: "EvalSettings", folder: Path) -> int:
    from secura.experiments.evaluate import export

    names = export(settings, folder)
    print(visible(f"{len(names)} tasks are in {folder}; run them with"))
    command = f"lm_eval --include_path {folder} --tasks {','.join(names)} --model hf --model_args pretrained=MODEL"
    print(visible(f"  {command}"))
    return 0
