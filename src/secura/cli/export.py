"""`secura export`: a trained model in a form that other tools serve."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secura.cli.names import names_in

if TYPE_CHECKING:
    from secura.experiments.export import ExportSettings

Option = typer.Option


def export(
    source: Annotated[
        str, typer.Argument(metavar="RUN|ADAPTER|MODEL", help="A run, an adapter of any PEFT method, or a model.")
    ],
    to: Annotated[str, Option(metavar="FORM", help="lora, merged, gguf, gguf-lora or ollama.")],
    base: Annotated[str | None, Option(help="The base of an adapter; default: the one it names.")] = None,
    dtype: Annotated[str | None, Option(help="float32, bfloat16 or float16; default: as the base.")] = None,
    quantize: Annotated[
        str | None, Option(metavar="KIND", help="Quantization of a GGUF file: q8_0, q5_1, q4_0, q4_k_m, ...")
    ] = None,
    scale: Annotated[float, Option(help="The point of the dial: 0 is the base, 1 is all that was learned.")] = 1.0,
    tasks: Annotated[list[str] | None, Option(metavar="A,B", help="Folded tasks to keep; default: all.")] = None,
    rank: Annotated[
        int | None, Option(help="Rank of a LoRA that cannot be exact; default: the lowest within --max-lost.")
    ] = None,
    max_lost: Annotated[float, Option(help="Share of a layer's change that a LoRA may lose, as energy.")] = 0.01,
    accept_loss: Annotated[bool, Option("--accept-loss", help="Write a LoRA even if it loses more than that.")] = False,
    questions: Annotated[list[str] | None, Option(metavar="A,B", help="Tasks to ask if a LoRA is not exact.")] = None,
    count: Annotated[int, Option(help="Questions of each of these tasks, at most.")] = 50,
    dequantize: Annotated[
        bool, Option("--dequantize", help="Export a quantized base without quantization: larger, not better.")
    ] = False,
    out: Annotated[Path | None, Option(help="Folder to write; default: beside the source.")] = None,
    debug: Annotated[bool, Option("--debug", help="Show the traceback of an error.")] = False,
) -> int:
    """Write a trained model as a LoRA, merged, as GGUF, or for Ollama.

    Exit codes: 0 done, 1 failed, 3 wrong usage, or a LoRA would lose more than --max-lost.
    """
    del debug  # read by `secura.cli.app.run`
    from secura.experiments.export import ExportSettings

    return _export(
        ExportSettings(
            source=source,
            to=to,  # type: ignore[arg-type]  # checked there
            base=base,
            dtype=dtype,
            quantize=quantize,
            scale=scale,
            tasks=names_in(tasks),
            rank=rank,
            limit=max_lost,
            accept_loss=accept_loss,
            questions=names_in(questions),
            count=count,
            dequantize=dequantize,
            out=out,
        )
    )


def _export(settings: "ExportSettings") -> int:
    from secura.cli.export_view import show_export, show_loss
    from secura.experiments.export import export as write_export
    from secura.plain_console import PlainConsole
    from secura.report.card.export_card import write_export_card

    console = PlainConsole()
    result = write_export(settings, console, on_measured=lambda lora, effects: show_loss(console, lora, effects))
    write_export_card(result, settings.source)
    show_export(console, result)
    return 0
