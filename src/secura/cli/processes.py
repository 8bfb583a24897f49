"""One command line in several processes, as torchrun and `accelerate launch` start it.

They all read the same arguments and end with the same exit code. What goes wrong in all of
them is said once, by the main one; what goes wrong in one is said with its number.
"""

import os
import sys
from collections.abc import Sequence

from secura.errors import ConfigError
from secura.visible import in_one_line

_SHARED_COMMAND = "train"


def launched_processes() -> int:
    """How many processes were launched together with this one, itself included."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join(arguments: Sequence[str]) -> None:
    """Meet the other processes, where there are any; only `secura train` can.

    Raises:
        ConfigError: for another command.
    """
    count = launched_processes()
    command = next((argument for argument in arguments if not argument.startswith("-")), None)
    if count == 1 or command is None:
        return
    if command != _SHARED_COMMAND:
        raise ConfigError(
            f"secura {command} runs in one process, but {count} were launched; start it without torchrun or "
            "accelerate launch."
        )
    # DDP warns in each process that no weight went unused, which is as it should be. Read at torch's import.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from secura.training.processes import join_processes

    join_processes()


def part() -> None:
    """Leave the other processes at the end of a command that went well."""
    if launched_processes() > 1 and "secura.training.processes" in sys.modules:
        from secura.training.processes import leave_processes

        leave_processes()


def say_error(message: str) -> None:
    """Print an error on stderr, once for all processes that meet it."""
    line = in_one_line(message)
    if launched_processes() == 1:
        _print(line)
        return
    from secura.training.processes import errors_of_everyone, has_joined, process_index

    if not has_joined():  # arguments and settings, which are the same everywhere
        if os.environ.get("RANK", "0") == "0":
            _print(line)
        return
    errors = errors_of_everyone(line)
    if errors is None:
        _print(f"process {process_index()}: {line}")
        return
    if process_index() == 0:
        _print(line)
        for index, error in enumerate(errors):
            if error != line:
                _print(f"process {index}: {error}")
    part()


def _print(line: str) -> None:
    print(f"secura: {line}", file=sys.stderr, flush=True)
