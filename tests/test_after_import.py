import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from secura.after_import import after_import


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a package that nobody has imported."""
    (tmp_path / "late_package").mkdir()
    (tmp_path / "late_package" / "__init__.py").write_text("value = 1\n")
    (tmp_path / "late_package" / "part.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    watching = list(sys.meta_path)
    yield "late_package"
    sys.meta_path[:] = watching
    for name in [name for name in sys.modules if name.startswith("late_package")]:
        del sys.modules[name]


def imported(name: str) -> ModuleType:
    return importlib.import_module(name)


@pytest.mark.parametrize("by", ["late_package", "late_package.part"])
def test_it_acts_once_the_package_is_there_and_then_no_more(package: str, by: str) -> None:
    seen: list[object] = []
    after_import(package, lambda: seen.append(getattr(sys.modules[package], "value", None)))
    assert seen == []
    imported(by)
    assert seen == [1]
    importlib.reload(sys.modules[package])
    assert seen == [1]


def test_it_acts_at_once_where_the_package_has_been_imported(package: str) -> None:
    imported(package)
    seen: list[int] = []
    after_import(package, lambda: seen.append(1))
    assert seen == [1]


def test_to_look_for_the_package_is_not_to_import_it(package: str) -> None:
    plain = importlib.util.find_spec(package)
    seen: list[int] = []
    after_import(package, lambda: seen.append(1))
    found = importlib.util.find_spec(package)
    assert seen == []
    assert plain is not None
    assert found is not None
    assert (found.origin, type(found.loader)) == (plain.origin, type(plain.loader))
    imported(package)
    assert seen == [1]


def test_the_import_leaves_no_trace_of_it(package: str) -> None:
    before = list(sys.meta_path)
    after_import(package, lambda: None)
    module = imported(package)
    assert sys.meta_path == before
    assert module.__spec__ is not None
    assert "exec_module" not in vars(module.__spec__.loader)


def test_two_acts_happen_both(package: str) -> None:
    seen: list[str] = []
    after_import(package, lambda: seen.append("one"))
    after_import(package, lambda: seen.append("other"))
    imported(package)
    assert sorted(seen) == ["one", "other"]


def test_an_import_that_fails_is_followed_by_the_next(package: str, tmp_path: Path) -> None:
    file = tmp_path / package / "__init__.py"
    file.write_text("raise OSError('half a package')")
    seen: list[int] = []
    after_import(package, lambda: seen.append(1))
    with pytest.raises(OSError, match="half a package"):
        imported(package)
    assert seen == []
    file.write_text("value = 2  # of another length than before")
    importlib.invalidate_caches()
    imported(package)
    assert seen == [1]


def test_a_package_that_is_not_there_is_missed_as_ever() -> None:
    after_import("no_such_package", lambda: None)
    try:
        with pytest.raises(ModuleNotFoundError, match="no_such_package"):
            imported("no_such_package")
    finally:
        sys.meta_path.pop(0)
