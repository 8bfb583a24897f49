"""What `import secura` offers, and what it may import itself."""

import ast
import inspect
from pathlib import Path

import pytest
from peft import PeftConfig, get_peft_model
from tiny_models import tiny_model

import secura
from secura import errors

PACKAGE = Path(inspect.getfile(secura)).parent


def test_all_is_sorted_and_is_what_the_package_offers() -> None:
    offered = {
        name for name in vars(secura) if not name.startswith("_") and not inspect.ismodule(getattr(secura, name))
    }
    typing_only = {"TYPE_CHECKING", "Path"}
    assert set(secura.__all__) == offered - typing_only
    assert secura.__all__ == sorted(secura.__all__)


def test_every_error_is_offered_and_in_the_tree_that_its_module_shows() -> None:
    raised = {name for name, value in vars(errors).items() if inspect.isclass(value)}
    assert raised <= set(secura.__all__)
    assert errors.__doc__ is not None
    assert [name for name in raised if name not in errors.__doc__] == []


def test_every_folder_with_code_says_in_one_sentence_what_it_holds() -> None:
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    unsaid = [folder for folder in folders if not (folder / "__init__.py").is_file()]
    assert unsaid == []
    assert [
        folder for folder in folders if not ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
    ] == []


def test_importing_secura_lets_peft_read_and_apply_its_configs(tmp_path: Path) -> None:
    secura.SecuraConfig(r=4).save_pretrained(str(tmp_path))
    config = PeftConfig.from_pretrained(str(tmp_path))
    assert isinstance(config, secura.SecuraConfig)
    assert config.r == 4
    assert isinstance(get_peft_model(tiny_model(), config).base_model, secura.SecuraModel)


@pytest.mark.parametrize("path", sorted((PACKAGE / "numerics").glob("*.py")), ids=lambda path: path.name)
def test_numerics_imports_pytorch_and_ways_to_write_types_down(path: Path) -> None:
    allowed = {"torch", "jaxtyping", "typing", "collections", "dataclasses", "math", "secura"}
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            imported.add(node.module.split(".")[0])
    assert imported <= allowed
