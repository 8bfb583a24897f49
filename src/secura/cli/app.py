"""The `secura` command: its subcommands, and how it ends.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | failed, or stopped by Ctrl-C |
| 2 | done, but retention is below `--min-retention` |
| 3 | wrong usage: an option, a setting, a file or a row that cannot be used |

Processes that torchrun or `accelerate launch` started together end with the same code, and
the main one alone speaks. An error is one line on stderr; `--debug` shows where it came from. Nothing here imports
torch, so that `secura --help` answers at once.
"""

import sys
from collections.abc import Sequence
from typing import Any

import typer

from secura.cli import processes
from secura.cli.card import card
from secura.cli.compare import app as compare
from secura.cli.evaluate import evaluate
from secura.cli.forget import forget
from secura.cli.report import report
from secura.cli.sequence import app as sequence
from secura.cli.train import train
from secura.errors import InputError, SecuraError

DONE, FAILED, BELOW_RETENTION, USAGE = 0, 1, 2, 3
_CTRL_C = 130
"""What typer makes of a KeyboardInterrupt: the code of a shell, not one of ours."""

app = typer.Typer(
    name="secura",
    help="Fine-tune a language model without breaking what it already knows.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(train)
app.command()(forget)
app.command("eval")(evaluate)
app.add_typer(sequence, name="sequence")
app.add_typer(compare, name="compare")
app.command()(report)
app.command()(card)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))


def run(arguments: list[str]) -> int:
    """Run the command line; returns the exit code."""
    debug = "--debug" in arguments
    command: Any = typer.main.get_command(app)
    try:
        processes.join(arguments)
        code = command.main(args=arguments, prog_name="secura", standalone_mode=False)
    except SecuraError as problem:
        if debug:
            raise
        processes.say_error(str(problem))
        return USAGE if isinstance(problem, InputError) else FAILED
    except (KeyboardInterrupt, typer.Abort):
        code = _CTRL_C
    except Exception as problem:
        # The usage errors of click and of the copy inside typer share no class but this method.
        usage = getattr(problem, "format_message", None)
        if usage is not None:
            processes.say_error(f"{usage()} See secura --help.")
            return USAGE
        if debug:
            raise
        full = _out_of_memory(problem)
        processes.say_error(full or f"{type(problem).__name__}: {problem} (--debug shows where)")
        return FAILED
    if code == _CTRL_C:
        processes.say_error("stopped by Ctrl-C.")
        return FAILED
    processes.part()
    return code if isinstance(code, int) else DONE


def _out_of_memory(problem: Exception) -> str | None:
    """What is said where memory ran out, which only a command that has imported torch can run into."""
    if "torch" not in sys.modules:
        return None
    from secura.training.memory import out_of_memory_sentence

    return out_of_memory_sentence(problem)
