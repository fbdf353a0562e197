"""Public names that are loaded when they are first used (PEP 562).

A name is always the same, whatever has been imported before: also where a function is called as a
module of the package is, such as `tensor`, and in threads that come at once. These need no lock of
ours, as long as no package imports modules of its own that others import directly: each thread then
takes Python's locks of modules in the order of imports, which has no circles.
"""

import importlib
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

FOLDERS = ("kernels", "models", "benchmarks")  # wherever they lie


def attach(package: str) -> tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__all__`, `__getattr__` and `__dir__` for a package that is being imported.

    Its public names are those of `__init__.pyi`, which type checkers read: a line for each, `from
    MODULE import NAME as NAME`. Modules of the package are served as public names are.
    """
    module = sys.modules[package]
    folder = os.path.dirname(os.path.realpath(str(module.__file__)))  # noqa: PTH120
    with open(f"{folder}/__init__.pyi", encoding="utf-8") as file:  # noqa: PTH123
        named = [line.split() for line in file if line.startswith("from ")]
    public = sorted(words[3] for words in named)
    homes = {words[3]: words[1] for words in named if words[1] != package}

    class Package(ModuleType):
        """A package in which public names stay when a module of the same name is imported."""

        def __setattr__(self, name: str, value: object) -> None:
            is_module = isinstance(value, ModuleType) and value.__name__ == f"{package}.{name}"
            if not (is_module and name in homes):
                super().__setattr__(name, value)

    def get(name: str) -> Any:
        try:
            if name in homes:
                found = getattr(importlib.import_module(homes[name]), name)
                return vars(module).setdefault(name, found)
            if name in FOLDERS or name in modules():
                return importlib.import_module(f"{package}.{name}")
        except AttributeError as error:  # that would be taken for the name's, and its cause be lost
            raise ImportError(f"{package}.{name} cannot be loaded: {error}") from error
        message = f"module {package!r} has no attribute {name!r}"
        raise AttributeError(message, name=name, obj=module)

    def modules() -> set[str]:
        files = [name.partition(".") for name in os.listdir(folder)]  # noqa: PTH208
        return {stem for stem, _, ending in files if ending in ("", "py") and stem[0] != "_"}

    def names() -> list[str]:
        return sorted({*vars(module), *public})

    module.__class__ = Package
    return public, get, names
