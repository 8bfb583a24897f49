"""The `secura` command: its subcommands, and how it ends.

Processes that torchrun or `accelerate launch` started together end with the same code, and
the main one alone speaks. An error is one line on stderr; `--debug` shows where it came from. Nothing here imports
torch, so that `secura --help` answers at once.
"""

import errno
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from types import TracebackType
from typing import Annotated, Any

import typer

from secura.cli import processes
from secura.cli.anchors import anchors
from secura.cli.card import card
from secura.cli.chat import chat, generate
from secura.cli.compare import app as compare
from secura.cli.data import app as data
from secura.cli.dial import dial
from secura.cli.doctor import doctor
from secura.cli.evaluate import evaluate
from secura.cli.exit_codes import DONE, FAILED, USAGE
from secura.cli.export import export
from secura.cli.forget import forget
from secura.cli.helpful_group import HelpfulGroup
from secura.cli.push import push
from secura.cli.report import report
from secura.cli.sequence import app as sequence
from secura.cli.studio import studio
from secura.cli.train import train
from secura.cli.verify_export import verify_export
from secura.errors import InputError, SecuraError, StoppedError
from secura.stop_signals import exit_code_of_stop, treat_like_ctrl_c, what_stopped
from secura.visible import visible

_CTRL_C = 130
"""What typer makes of a KeyboardInterrupt: the code of a shell, not one of ours."""


def _print_version(wanted: bool) -> None:
    if wanted:
        from secura import __version__

        print(f"secura {__version__}")
        raise typer.Exit


app = typer.Typer(
    name="secura",
    cls=HelpfulGroup,
    help="Fine-tune a language model without breaking what it already knows.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["--help", "-h"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def secura(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Fine-tune a language model without breaking what it already knows."""
    del version


app.command()(train)
app.add_typer(data, name="data")
app.command()(forget)
app.command()(anchors)
app.command()(dial)
app.command("eval")(evaluate)
app.add_typer(sequence, name="sequence")
app.add_typer(compare, name="compare")
app.command()(report)
app.command()(studio)
app.command()(card)
app.command()(export)
app.command("verify-export")(verify_export)
app.command()(push)
app.command()(chat)
app.command()(generate)
app.command()(doctor)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    _before_torch()
    _write_plainly()
    treat_like_ctrl_c()
    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))


def _before_torch() -> None:
    """Settle what torch, and what PEFT imports beside it, do as soon as they are imported."""
    # OpenMP threads spin while they wait. Where another process wanted the same two cores, a run
    # of 12 seconds took 150; asleep they lost nothing.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Where there is no GPU, these two say so.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    logging.getLogger("DeepSpeed").addFilter(lambda record: "Setting accelerator to CPU" not in record.getMessage())


def _write_plainly() -> None:
    """Let nothing in a warning of a library, or in the traceback that --debug shows, act on the terminal."""
    written_out = warnings.formatwarning
    warnings.formatwarning = lambda *said, **more: visible(written_out(*said, **more))

    def show(kind: type[BaseException], problem: BaseException, trace: TracebackType | None) -> None:
        print(visible("".join(traceback.format_exception(kind, problem, trace))), end="", file=sys.stderr)

    sys.excepthook = show


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
        if isinstance(problem, StoppedError):
            return exit_code_of_stop(FAILED)
        return USAGE if isinstance(problem, InputError) else FAILED
    except (KeyboardInterrupt, typer.Abort):
        code = _CTRL_C
    except Exception as problem:
        # The usage errors of click and of the copy inside typer share no class but this method.
        usage = getattr(problem, "format_message", None)
        if usage is not None:
            processes.say_error(_with_way_out(problem, usage()))
            return USAGE
        if debug:
            raise
        said = _out_of_memory(problem) or _about_a_file(problem)
        processes.say_error(said or f"{type(problem).__name__}: {problem} (--debug shows where)")
        return USAGE if getattr(problem, "errno", None) == errno.ENAMETOOLONG else FAILED
    if code == _CTRL_C:
        processes.say_error(f"stopped by {what_stopped()}.")
        return exit_code_of_stop(FAILED)
    processes.part()
    return code if isinstance(code, int) else DONE


def _with_way_out(problem: Any, said: str) -> str:
    """A usage error with the way out: for an option that is a setting, how that is given."""
    option = getattr(problem, "option_name", None)
    if isinstance(option, str):
        from secura.experiments.settings.layers import setting_called

        meant = setting_called(option.lstrip("-"))
        if meant is not None:
            return f"No such option: {option}. It is a setting: --set {meant if '=' in meant else meant + '=VALUE'}."
    return f"{said} See secura --help."


def _about_a_file(problem: Exception) -> str | None:
    """What is said of a file that the system refuses, such as where a disk is full or only to be read."""
    if not isinstance(problem, OSError) or problem.strerror is None or problem.filename is None:
        return None
    names = [str(each) for each in (problem.filename, problem.filename2) if each is not None]
    return f"{' and '.join(names)}: {problem.strerror}. --debug shows where."


def _out_of_memory(problem: Exception) -> str | None:
    """What is said where memory ran out, which only a command that has imported torch can run into."""
    if "torch" not in sys.modules:
        return None
    from secura.training.memory import out_of_memory_sentence

    return out_of_memory_sentence(problem)
