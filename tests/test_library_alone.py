import os
import subprocess
import sys
from pathlib import Path

import pytest

from secura.__main__ import NEEDED

pytestmark = pytest.mark.ci

PROGRAM = Path(__file__).with_name("library_alone.py")
WANTED_BY_TORCH_OR_PEFT = {"filelock", "huggingface_hub", "jinja2", "tokenizers", "yaml"}
"""There in any case; the library's own code asks for none of them."""


def test_adapters_and_strategies_need_none_of_the_packages_of_the_command() -> None:
    missing = [name for name in NEEDED if name not in WANTED_BY_TORCH_OR_PEFT]
    missing.append("deepspeed")  # accelerate imports it wherever it is installed, and it needs pydantic
    paths = [str(PROGRAM.parent), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *missing],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
