"""Modules that hold modules."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self, SupportsIndex, overload

from tinygrad_char.nn.module import Module


class _Listed(Module):
    """Parts in order, which a position or a slice selects."""

    def append(self, module: Module) -> Self:
        """Add a module at the end and return self."""
        taken = [int(name) for name, _ in self.children() if name.isdecimal()]
        name = str(max([len(self) - 1, *taken]) + 1)
        setattr(self, name, require_module(type(self).__name__, module))
        return self

    def extend(self, modules: Iterable[Module]) -> Self:
        """Add modules at the end and return self."""
        for module in modules:
            self.append(module)
        return self

    def insert(self, position: int, module: Module) -> Self:
        """Add a module before a position, number the parts anew, and return self."""
        parts = list(self)
        parts.insert(position, require_module(type(self).__name__, module))
        self._replace(parts)
        return self

    def __iter__(self) -> Iterator[Module]:
        return (module for _, module in self.children())

    def __len__(self) -> int:
        return len(self._registered["module"])

    @overload
    def __getitem__(self, position: SupportsIndex) -> Module: ...
    @overload
    def __getitem__(self, position: slice) -> Self: ...
    def __getitem__(self, position: Any) -> Any:
        if isinstance(position, slice):
            return self._part(list(self.children())[position])
        return self._child(position)[1]

    def __setitem__(self, position: SupportsIndex, module: Module) -> None:
        name, _ = self._child(position)
        setattr(self, name, require_module(type(self).__name__, module))

    def __delitem__(self, position: SupportsIndex | slice) -> None:
        if not isinstance(position, slice):
            self._child(position)
        parts = list(self)
        del parts[position]
        self._replace(parts)

    def _child(self, position: SupportsIndex) -> tuple[str, Module]:
        name, parts = type(self).__name__, list(self.children())
        try:
            number = operator.index(position)
        except TypeError:
            raise TypeError(
                f"{name}: expected a position or a slice, got {type(position).__name__}"
            ) from None
        if not -len(parts) <= number < len(parts):
            raise IndexError(f"{name}: position {number} of {len(parts)} modules")
        return parts[number]

    def _replace(self, parts: list[Module]) -> None:
        for name, _ in list(self.children()):
            delattr(self, name)
        for number, module in enumerate(parts):
            setattr(self, str(number), module)

    def _part(self, parts: list[tuple[str, Module]]) -> Module:
        raise NotImplementedError


class Sequential(_Listed):
    """Modules called one after the other, each with the result of the one before.

    They are numbered, or named by a dict of them. A slice is a Sequential of the same modules
    under the same names.
    """

    def __init__(self, *modules: Module | Mapping[str, Module]) -> None:
        super().__init__()
        if len(modules) == 1 and isinstance(modules[0], Mapping):
            for name, module in modules[0].items():
                add_named(self, name, module)
        else:
            for number, each in enumerate(modules):
                setattr(self, str(number), require_module("Sequential", each))

    def forward(self, x: Any) -> Any:
        for module in self:
            x = module(x)
        return x

    def _part(self, parts: list[tuple[str, Module]]) -> Sequential:
        return Sequential(dict(parts))


class ModuleList(_Listed):
    """A list of modules that are registered as parts; a slice is a ModuleList, numbered anew."""

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__()
        self.extend(modules)

    def _part(self, parts: list[tuple[str, Module]]) -> ModuleList:
        return ModuleList(module for _, module in parts)


class ModuleDict(Module):
    """A dict of modules that are registered as parts, in the order in which they were given."""

    def __init__(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]] = ()) -> None:
        super().__init__()
        self.update(modules)

    def update(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]]) -> None:
        """Set modules from a dict, or from pairs of name and module."""
        for name, module in dict(modules).items():
            self[name] = module

    def __getitem__(self, name: str) -> Module:
        try:
            return self._registered["module"][name]
        except KeyError:
            raise KeyError(f"{name!r} is none of {list(self)}") from None

    def __setitem__(self, name: str, module: Module) -> None:
        add_named(self, name, module)

    def __delitem__(self, name: str) -> None:
        self[name]
        delattr(self, name)

    def pop(self, name: str) -> Module:
        """Remove a module and return it."""
        module = self[name]
        del self[name]
        return module

    def __contains__(self, name: object) -> bool:
        return name in self._registered["module"]

    def __iter__(self) -> Iterator[str]:
        return iter(self._registered["module"])

    def __len__(self) -> int:
        return len(self._registered["module"])

    def keys(self) -> Iterable[str]:
        """Return a view of the names, in the order in which they were first set."""
        return self._registered["module"].keys()

    def values(self) -> Iterable[Module]:
        """Return a view of the modules, in the order of their names."""
        return self._registered["module"].values()

    def items(self) -> Iterable[tuple[str, Module]]:
        """Return a view of pairs of name and module, in the order of the names."""
        return self._registered["module"].items()


def add_named(owner: Module, name: str, module: Module) -> None:
    """Set a part under a name that is to be part of dotted names.

    Raises
    ------
    TypeError
        The name is no string, or what it names is no module.
    ValueError
        The name is empty, has a dot, or is an attribute of the container.
    """
    kind = type(owner).__name__
    if not isinstance(name, str):
        raise TypeError(f"{kind}: name {name!r}, expected a string")
    known = name in vars(owner) or hasattr(type(owner), name)
    if not name or "." in name or (known and name not in owner._registered["module"]):
        why = "is an attribute of it" if known else "is no part of a dotted name"
        raise ValueError(f"{kind}: a module cannot be named {name!r}, which {why}")
    setattr(owner, name, require_module(kind, module))


def require_module(container: str, value: Any) -> Module:
    """Return the value, or raise TypeError if it is no module."""
    if not isinstance(value, Module):
        raise TypeError(f"{container}: expected modules, got {value!r}")
    return value
