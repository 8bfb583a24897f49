"""Kinds of GGUF that the `gguf` package cannot write: llama.cpp's own quantizer does, where it is installed."""

import shutil
import subprocess
from pathlib import Path

from secura.errors import ConfigError, SecuraError

PROGRAM = "llama-quantize"

QUANTIZED_KINDS = ("q3_k_m", "q4_k_s", "q4_k_m", "q5_k_s", "q5_k_m", "q6_k")
"""What it is asked for; rows that do not divide into its blocks of 256 it stores in a kind of its own choice."""


def check_quantizer(kind: str) -> None:
    """Refuse a kind that needs the quantizer where there is none.

    Raises:
        ConfigError: naming what to install.
    """
    if shutil.which(PROGRAM) is None:
        raise ConfigError(
            f"{kind} is written by llama.cpp's {PROGRAM}, which is not on the PATH; install llama.cpp, or use "
            "--quantize q8_0."
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
    done = subprocess.run(
        [PROGRAM, str(source), str(target), kind.upper()], capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode or not target.is_file():
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise SecuraError(f"{PROGRAM} ended with code {done.returncode} and said: {said[:300]}")
