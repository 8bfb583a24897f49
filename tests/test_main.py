import importlib.metadata
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from secura.__main__ import NEEDED
from secura.cli.exit_codes import USAGE

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


@pytest.fixture(scope="module")
def modules() -> Mapping[str, list[str]]:
    """The distributions that each module that can be imported comes from."""
    return importlib.metadata.packages_distributions()


def names_to_import(distribution: str, modules: Mapping[str, list[str]]) -> set[str]:
    return {
        module
        for module, distributions in modules.items()
        if distribution.lower().replace("_", "-") in {each.lower().replace("_", "-") for each in distributions}
        and not module.startswith("_")
    }


def test_what_the_command_needs_is_what_its_extra_installs(modules: Mapping[str, list[str]]) -> None:
    extras = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]
    installed = [names_to_import(Requirement(each).name, modules) for each in extras["cli"]]
    assert [names & set(NEEDED) for names in installed if len(names & set(NEEDED)) != 1] == []
    assert set().union(*installed) & set(NEEDED) == set(NEEDED)
    assert len(installed) == len(NEEDED)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["train"]])
def test_a_command_without_its_packages_says_in_one_sentence_what_to_install(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "sys.modules.update(duckdb=None, plotly=None, typer=None)\n"
        "from secura.__main__ import main\n"
        f"sys.argv[1:] = {arguments}\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == USAGE
    assert done.stdout == ""
    assert done.stderr == (
        "secura: the command needs duckdb, plotly, typer, not installed here; run pip install 'secura[cli]'.\n"
    )
