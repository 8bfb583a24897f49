"""Several processes that share a run, as torchrun would start them: over gloo, one thread each."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from filelock import FileLock

FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}
"""What accelerate makes of examples/accelerate/fsdp2.yaml."""

_ZERO = {
    "ACCELERATE_USE_CPU": "false",
    "ACCELERATE_USE_DEEPSPEED": "true",
    "ACCELERATE_DEEPSPEED_ZERO3_INIT": "false",
    "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": "true",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "auto",
    "DS_ACCELERATOR": "cpu",
}
ZERO2 = {**_ZERO, "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}
"""What accelerate makes of examples/accelerate/zero2.yaml."""
ZERO3 = {**_ZERO, "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}
"""What accelerate makes of examples/accelerate/zero3.yaml."""

_LAUNCHERS = ("ACCELERATE_", "FSDP_", "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_")


_COMPILED = Path(sys.prefix) / "torch_extensions"
"""What DeepSpeed compiles when it is first used, by itself: a process that was killed meanwhile leaves a lock behind in
torch's own folder, at which every later one waits for ever."""
_LONGEST_COMPILATION = 900
"""In seconds."""


@dataclass(frozen=True)
class Ended:
    """How one process ended."""

    code: int
    output: str
    errors: str


def start(
    arguments: Sequence[str], *, count: int = 2, launcher: dict[str, str] | None = None
) -> list[subprocess.Popen]:
    """Start `python ARGUMENTS` `count` times, each with its own rank."""
    if "ACCELERATE_USE_DEEPSPEED" in (launcher or {}):
        _compile_deepspeed()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(_LAUNCHERS)}
    shared = {
        **clean,
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "ACCELERATE_USE_CPU": "true",
        "TORCH_EXTENSIONS_DIR": str(_COMPILED),
        "PYTHONFAULTHANDLER": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
        **(launcher or {}),
    }
    return [
        subprocess.Popen(
            [sys.executable, *arguments],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        for rank in range(count)
    ]


@cache
def _compile_deepspeed() -> None:
    """Have DeepSpeed compile what its processes share memory with, which takes longer than a test may.

    It does nothing where all is compiled; another version of something, or another option, has it compile again.
    """
    with FileLock(f"{_COMPILED}.lock"):
        _COMPILED.mkdir(exist_ok=True)
        for lock in _COMPILED.glob("*/lock"):
            if time.time() - lock.stat().st_mtime > _LONGEST_COMPILATION:
                lock.unlink()
        subprocess.run(
            [sys.executable, "-c", "from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder as B; B().load()"],
            env={**os.environ, "TORCH_EXTENSIONS_DIR": str(_COMPILED), "DS_ACCELERATOR": "cpu"},
            check=True,
            timeout=_LONGEST_COMPILATION,
        )


def wait(processes: Sequence[subprocess.Popen], *, seconds: float = 120) -> list[Ended]:
    """How each of them ended; none is left behind, and of one that hangs it is said where.

    Raises:
        TimeoutError: with what each process was doing, and had said.
    """
    try:
        said = [process.communicate(timeout=seconds) for process in processes]
    except subprocess.TimeoutExpired:
        raise TimeoutError("".join(map(_where_it_hangs, processes))) from None
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return [Ended(process.returncode, *each) for process, each in zip(processes, said, strict=True)]


def _where_it_hangs(process: subprocess.Popen) -> str:
    if process.poll() is not None:
        return f"\nprocess {process.pid} ended with {process.returncode}\n"
    process.send_signal(signal.SIGABRT)  # Python's fault handler writes every thread's stack
    try:
        _, errors = process.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        return f"\nprocess {process.pid} hangs, and does not say where\n"
    return f"\nprocess {process.pid} hangs:\n{errors}\n"


def run(arguments: Sequence[str], *, count: int = 2, launcher: dict[str, str] | None = None) -> list[Ended]:
    """Start them and wait for their ends."""
    return wait(start(arguments, count=count, launcher=launcher))
