"""What the Dockerfile copies is there and is not ignored; `make image` builds it where an engine is."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COPIED = [
    name
    for line in re.findall(r"^COPY (.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    for name in line.split()[:-1]
]


@pytest.mark.parametrize("name", sorted(set(COPIED)))
def test_what_the_image_copies_reaches_the_build(name: str) -> None:
    assert (ROOT / name).exists()
    assert f"!{name}" in (ROOT / ".dockerignore").read_text().splitlines()


def test_the_image_takes_the_pinned_pytorch_and_extras_that_exist() -> None:
    import tomllib

    assert len(re.findall(r"^torch==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)) == 1
    (extras,) = re.findall(r"'/src\[([\w,-]+)\]'", (ROOT / "Dockerfile").read_text())
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras.split(",")) <= set(known)
