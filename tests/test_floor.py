"""The oldest versions that are tested are those that are allowed."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]


def test_the_oldest_versions_allowed_are_those_that_are_tested() -> None:
    lines = (ROOT / "constraints-floor.txt").read_text(encoding="utf-8").splitlines()
    tested = dict(line.split("==") for line in lines if not line.startswith("#"))
    allowed = {}
    for each in map(Requirement, tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]):
        (allowed[each.name],) = [spec.version for spec in each.specifier if spec.operator == ">="]
    assert set(tested) == {"accelerate", "peft", "torch", "transformers"}
    assert {name: Version(version) for name, version in tested.items()} == {
        name: Version(allowed[name]) for name in tested
    }
