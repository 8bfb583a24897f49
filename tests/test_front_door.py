"""What `import secura` offers, and what it may import itself."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from peft import PeftConfig, get_peft_model
from tiny_models import save_tiny_model, tiny_model

import secura
from secura import errors

PACKAGE = Path(inspect.getfile(secura)).parent


def test_all_is_sorted_and_is_what_the_package_offers() -> None:
    assert secura.__all__ == sorted(secura.__all__)
    assert dir(secura) == secura.__all__
    starred: dict[str, object] = {}
    exec("from secura import *", starred)
    del starred["__builtins__"]
    assert sorted(starred) == secura.__all__
    assert all(value is getattr(secura, name) for name, value in starred.items())


def test_what_is_imported_when_asked_for_is_what_type_checkers_see() -> None:
    (block,) = [node for node in ast.parse(Path(secura.__file__).read_text()).body if isinstance(node, ast.If)]
    seen = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == secura._IMPORTED_WHEN_ASKED_FOR
    assert list(seen) == sorted(seen, key=lambda name: (seen[name], name))


def test_an_unknown_name_is_refused_by_its_name() -> None:
    with pytest.raises(AttributeError, match="'secura' has no attribute 'fould'"):
        secura.fould  # type: ignore[attr-defined] # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'fould' from 'secura'"):
        exec("from secura import fould")


def test_importing_secura_imports_neither_torch_nor_peft(tmp_path: Path) -> None:
    in_a_process(tmp_path, "import sys, secura\nassert not {'torch', 'peft', 'transformers'} & sys.modules.keys()")


@pytest.mark.ci
@pytest.mark.parametrize(
    "first",
    ["", pytest.param("import secura.numerics.change\n", marks=pytest.mark.slow)],
    ids=["nothing before", "a module before"],
)
def test_a_process_called_secura_can_import_what_is_offered(first: str, tmp_path: Path) -> None:
    code = first + (
        "from secura import FoldCallback, SecuraConfig, fold\n"
        "import secura\n"
        "from peft import PeftConfig\n"
        "assert type(PeftConfig.from_peft_type(peft_type='SECURA')) is secura.SecuraConfig is SecuraConfig\n"
        "assert FoldCallback(every=2).every == 2 and callable(fold)\n"
    )
    in_a_process(tmp_path, code, named="secura")


@pytest.mark.ci
@pytest.mark.parametrize(
    "imports", ["import secura\nimport peft", pytest.param("import peft\nimport secura", marks=pytest.mark.slow)]
)
def test_importing_secura_lets_peft_load_an_adapter(imports: str, tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "base")
    get_peft_model(tiny_model(), secura.SecuraConfig(r=4)).save_pretrained(tmp_path / "adapter")  # type: ignore[arg-type]
    code = (
        f"{imports}\n"
        "from transformers import AutoModelForCausalLM\n"
        f"base = AutoModelForCausalLM.from_pretrained({str(folder)!r})\n"
        f"model = peft.PeftModel.from_pretrained(base, {str(tmp_path / 'adapter')!r})\n"
        "assert type(model.base_model).__module__ == 'secura.adapters.secura.model'\n"
    )
    in_a_process(tmp_path, code, named="secura")


def in_a_process(folder: Path, code: str, *, named: str = "program.py") -> None:
    """Run code as a program of its own, under a name such as that of the installed command."""
    program = folder / named
    program.write_text(code)
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


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
    of_python = {"collections", "contextlib", "dataclasses", "functools", "math", "typing"}
    allowed = {"torch", "jaxtyping", "secura", *of_python}
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            imported.add(node.module.split(".")[0])
    assert imported <= allowed
