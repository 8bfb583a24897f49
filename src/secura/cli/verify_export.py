"""`secura verify-export`: is what is shipped what was tested?"""

from pathlib import Path
from typing import Annotated

import typer

from secura.cli.names import names_in

Option = typer.Option


def verify_export(
    base: Annotated[str, typer.Argument(help="The model before: a folder, a hub id, or the word bundled.")],
    adapter: Annotated[
        str, typer.Argument(help="The model that was tested: the folder of an adapter, a model or a run.")
    ],
    export: Annotated[Path, typer.Argument(help="Folder that secura export wrote, or a GGUF file.")],
    prompts: Annotated[int, Option(help="How many prompts both models answer.")] = 50,
    max_tokens: Annotated[int, Option(help="Tokens of an answer, at most.")] = 16,
    questions: Annotated[
        list[str] | None, Option(metavar="A,B", help="Tasks to ask; default: knowledge, or everyday.")
    ] = None,
    count: Annotated[int, Option(help="Questions of each task that are scored; 0 for none.")] = 20,
    max_kl: Annotated[float | None, Option(help="Highest mean divergence that passes, in nats per token.")] = None,
    vllm: Annotated[
        bool | None,
        Option("--vllm/--no-vllm", help="Also ask a LoRA or a merged model through vLLM; default: if it is installed."),
    ] = None,
    max_lost: Annotated[float | None, Option(help="Share of a layer's change that a LoRA may lose.")] = None,
    trust_tasks: Annotated[
        bool, Option("--trust-tasks", help="Allow Python files that the run's config.yaml names as tasks to run.")
    ] = False,
    debug: Annotated[bool, Option("--debug", help="Show the traceback of an error.")] = False,
) -> int:
    """Compare an export with the model it was made from, and write verification.json beside it.

    Exit codes: 0 alike, 1 failed, 2 they differ by more than is let pass, 3 wrong usage.
    """
    del debug  # read by `secura.cli.app.run`
    from secura.cli.verify_export_view import show_verification
    from secura.experiments.verify_export import VerifySettings
    from secura.experiments.verify_export import verify_export as compare
    from secura.plain_console import PlainConsole

    console = PlainConsole()
    found = compare(
        VerifySettings(
            base=base,
            adapter=adapter,
            export=export,
            prompts=prompts,
            max_tokens=max_tokens,
            questions=names_in(questions),
            count=count,
            max_kl=max_kl,
            vllm=vllm,
            max_lost=max_lost,
            trust_tasks=trust_tasks,
        ),
        console,
    )
    show_verification(console, found)
    return 2 if found.failures else 0
