"""Something to do once a package has been imported, by whoever imports it, without importing it oneself."""

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any


def after_import(package: str, act: Callable[[], object]) -> None:
    """Act once a package has been imported: now if it has been, or else at the end of its first import.

    Args:
        package: its name, such as `peft`; not one of its modules.
        act: called once; what it raises is raised by the import.
    """
    if package in sys.modules:
        act()
    else:
        sys.meta_path.insert(0, _Watch(package, act))


class _Watch:
    """A finder that finds nothing itself: it has others find the package, and follows its loader."""

    def __init__(self, package: str, act: Callable[[], object]) -> None:
        self._package = package
        self._act = act
        self._asks_others = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of the package as others find it; None for anything else."""
        if fullname != self._package or self._asks_others:
            return None
        self._asks_others = True
        try:
            spec = find_spec(fullname)
        finally:
            self._asks_others = False
        if spec is not None and spec.loader is not None:
            self._follow(spec.loader)
        return spec

    def _follow(self, loader: Any) -> None:
        """Act once the loader has carried out the package; it stays the loader that tools know, by type and methods."""
        load = loader.exec_module

        def load_and_act(module: ModuleType) -> None:
            vars(loader).pop("exec_module", None)
            load(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
                self._act()

        loader.exec_module = load_and_act
