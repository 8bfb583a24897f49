"""`secura train`: one run from the command line."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secura.cli.report import make_run_page, open_page

if TYPE_CHECKING:
    from secura.experiments.settings.run import RunConfig

Option = typer.Option


def train(
    run: Annotated[Path | None, typer.Argument(metavar="[RUN.yaml]", help="Settings; see --print-config.")] = None,
    model: Annotated[str | None, Option(help="Folder or hub id; default: the bundled model.")] = None,
    data: Annotated[str | None, Option(help="File, folder, hub data set or task; default: a bundled task.")] = None,
    method: Annotated[
        str | None,
        Option(help="secura, secura-paper, cabr-lora, cur-lora, bounded-lora, lora, dora, mica, corda, osf or full."),
    ] = None,
    strategy: Annotated[
        str | None,
        Option(help="What is done against forgetting, besides the adapter: own_text, kl_anchor, lwf or ilora."),
    ] = None,
    assign: Annotated[
        list[str] | None, Option("--set", metavar="A.B=C", help="Change one setting; may be repeated.")
    ] = None,
    out: Annotated[str | None, Option(help="Folder for the adapter, the checkpoints and the report.")] = None,
    retain: Annotated[
        str | None, Option(help="Files of questions and names of tasks, separated by commas; asked before and after.")
    ] = None,
    keep: Annotated[
        float | None,
        Option(help="Share of the base's right answers to keep, such as 0.98; exit code 2 if this is not shown."),
    ] = None,
    min_retention: Annotated[
        float | None, Option(help="Exit with code 2 if the questions do not show that this share of knowledge is kept.")
    ] = None,
    resume: Annotated[bool, Option("--resume", help="Continue from the last checkpoint in --out.")] = False,
    trust_tasks: Annotated[
        bool, Option("--trust-tasks", help="Allow Python files that the folder's config.yaml names as tasks to run.")
    ] = False,
    dry_run: Annotated[bool, Option("--dry-run", help="Check everything, train nothing.")] = False,
    show: Annotated[
        bool, Option("--open", help="At the end, write the run's page and open it in the browser.")
    ] = False,
    print_config: Annotated[bool, Option("--print-config", help="Print the settings as YAML.")] = False,
    debug: Annotated[bool, Option("--debug", help="Show the traceback of an error.")] = False,
) -> int:
    """Fine-tune a model and see what it learned, what it kept and what it forgot.

    Without arguments it teaches the bundled model a bundled task. Exit codes: 0 done, 1
    failed or stopped by Ctrl-C, 2 kept less than --keep or --min-retention or
    too little to tell, 3 wrong usage.
    """
    del debug  # read by `secura.cli.app.run`
    from secura.experiments.settings.layers import config_as_yaml, load_config
    from secura.experiments.settings.trusted_tasks import is_settings_of_run, refuse_foreign_tasks
    from secura.training.processes import is_main_process

    file = str(run) if run is not None else None
    if resume and file is None:
        file = _saved_config(out)
    flags = {
        "model.path": model,
        "data.path": data,
        "method.name": method,
        "strategy.name": strategy,
        "out": out,
        "retention.path": retain,
        "retention.keep": keep,
        "retention.min_retention": min_retention,
    }
    config = load_config(file, assign or (), flags)
    if file is not None and is_settings_of_run(Path(file), out):
        refuse_foreign_tasks(config, Path(file), trust=trust_tasks, assignments=assign or (), flags=flags)
    if print_config and is_main_process():
        print(config_as_yaml(config), end="")
    if print_config:
        return 0
    return _train(config, resume=resume, dry_run=dry_run, show=show)


def _rate(rate: float | str | None) -> str:
    return f"{rate:.1e}" if isinstance(rate, float) else str(rate)


def _saved_config(out: str | None) -> str | None:
    """The settings of the run to resume, so that none need be repeated."""
    if out is None:
        return None
    from secura.experiments.files import CONFIG_FILE
    from secura.experiments.run.folder import check_kind, is_begun
    from secura.experiments.settings.run import RunConfig

    if not is_begun(Path(out)):
        return None
    check_kind(Path(out), RunConfig)
    return str(Path(out) / CONFIG_FILE)


def _train(config: "RunConfig", *, resume: bool, dry_run: bool, show: bool) -> int:
    from secura.cli.batch_view import show_batch
    from secura.cli.result_view import show_result
    from secura.evaluation.retention_gate import judge
    from secura.experiments.run.learn import first_batch
    from secura.experiments.run.prepare import prepare_run
    from secura.experiments.run.rows import ASK_MORE_KNOWLEDGE
    from secura.experiments.run.train import train_and_report
    from secura.plain_console import PlainConsole
    from secura.training.processes import is_main_process

    console = PlainConsole(quiet=not is_main_process())
    prepared = prepare_run(config, resume=resume, dry_run=dry_run)
    trained, base = prepared.trainable_weights, prepared.base_weights
    console.print(
        f"{prepared.config.method.name}: {trained:,} trainable weights beside a model of {base:,}; "
        f"{len(prepared.task.examples):,} rows, {prepared.task.steps:,} steps, "
        f"learning rate {_rate(prepared.config.training.learning_rate)}",
        highlight=False,
        soft_wrap=True,
    )
    if prepared.resume_from:
        console.print(f"continuing from {prepared.resume_from}", highlight=False, soft_wrap=True)
    for note in prepared.notes:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    show_batch(console, prepared.tokenizer, first_batch(prepared))
    if dry_run:
        console.print("dry run: all checks passed, nothing was trained")
        return 0
    result = train_and_report(prepared, console)
    show_result(console, result)
    if prepared.config.push_to_hub is not None and is_main_process():
        from secura.report.card.push import push_run

        address = push_run(prepared.folder, prepared.config.push_to_hub)
        console.print(f"uploaded to {address}", highlight=False, markup=False, soft_wrap=True)
    if is_main_process() and show:
        open_page(make_run_page(console, prepared.folder))
    if result.certificate is not None and not result.certificate.certified:
        return 2
    limit = config.retention.min_retention
    if limit is None:
        return 0
    verdict = judge(result.retention.families, limit, ask_more=ASK_MORE_KNOWLEDGE)
    console.print(verdict.sentence, highlight=False, markup=False, soft_wrap=True)
    return 0 if verdict.passed else 2
