"""The `secura` command, and `python -m secura`, which launchers of several processes start, such as torchrun.

The library runs without the packages of the command, which the extra `cli` installs.
"""

import sys
from importlib.util import find_spec

from secura.cli.exit_codes import USAGE

NEEDED = (
    "attr",
    "datasets",
    "duckdb",
    "filelock",
    "gguf",
    "huggingface_hub",
    "jinja2",
    "matplotlib",
    "plotly",
    "pyarrow",
    "pydantic",
    "rich",
    "rouge_score",
    "sacrebleu",
    "scipy",
    "tokenizers",
    "typer",
    "yaml",
)
"""What the extra `cli` installs, by the names that are imported."""


def main() -> None:
    """Run the command line and exit with its code."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        print(
            f"secura: the command needs {', '.join(missing)}, not installed here; run pip install 'secura[cli]'.",
            file=sys.stderr,
        )
        sys.exit(USAGE)
    from secura.cli import app

    app.main()


if __name__ == "__main__":
    main()
