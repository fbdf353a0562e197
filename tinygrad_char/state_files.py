"""State dicts in files: tensors, arrays and plain values by name, in dicts, lists and tuples.

A file is a checkpoint (see checkpoint.py): safetensors, written whole or not at all, nothing in
it executed. Its tensors are named by their keys, joined by dots; its metadata says how they nest.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tinygrad_char.kernels.array import native
from tinygrad_char.kernels.backend import bfloat16
from tinygrad_char.kernels.devices import get_backend
from tinygrad_char.tensor import Tensor

KIND = "state"
Path = str | os.PathLike[str]


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write a dict to `path` atomically, as `load` gives it back.

    Parameters
    ----------
    path
        Where the file appears, by custom *.safetensors. After any failure the former file of that
        name is untouched.
    state
        Tensors on any device, NumPy arrays and scalars, strings, numbers, booleans, None, and
        dicts (keys are strings or integers), lists and tuples of them: such as
        {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": 3}. Of a tensor
        its values and dtype are kept; bfloat16 lies there as uint16. What is one tensor, or one
        array, under several names is saved once and stays one.

    Raises
    ------
    TypeError
        `state` is no dict.
    CheckpointError
        Something in it that cannot be saved, named by its keys; or a file that could not be
        written.
    """
    from tinygrad_char import checkpoint

    if isinstance(path, Mapping) or not isinstance(state, Mapping):
        raise TypeError(
            f"save: expected a path and a dict, got {type(path).__name__} and "
            f"{type(state).__name__}; the path comes first"
        )
    encoder = _Encoder()
    try:
        tree = encoder.encode(state, ())
    except RecursionError:
        raise checkpoint.CheckpointError(
            f"cannot save {str(path)!r}: the state nests too deeply, or holds itself"
        ) from None
    checkpoint.save(path, encoder.arrays, {"kind": KIND, "tree": tree})


def load(path: Path, device: str = "cpu") -> dict[str, Any]:
    """Return what `save` wrote, its tensors on a device; nothing in the file is executed.

    Of another safetensors file, such as a checkpoint of a run or one of another program, the
    tensors by name.

    Raises
    ------
    CheckpointError
        `path` is missing, cut short, altered, or no safetensors file.
    DeviceError
        The device is unknown or not to be had.
    """
    from tinygrad_char import checkpoint

    backend = get_backend(device)

    def check(described: Mapping[str, Any], metadata: dict[str, Any]) -> None:
        if metadata.get("kind") == KIND:
            _Decoder(lambda name: described[name], lambda info, _: info).root(metadata)

    def tensor(array: np.ndarray, dtype: Any) -> Tensor:
        if dtype is not None:
            array = array.view(bfloat16())
        return Tensor(backend.from_numpy(array), device=device)

    try:
        arrays, metadata = checkpoint.load(path, check, external=True)
        if metadata.get("kind") == KIND:
            return _Decoder(lambda name: arrays[name], tensor).root(metadata)
        return {name: tensor(array, None) for name, array in arrays.items()}
    except (_TreeError, RecursionError, TypeError) as error:
        raise checkpoint.CheckpointError(
            f"cannot load {str(path)!r}: what it says of its tensors makes no state ({error}). "
            "Use another file, or a fresh copy of this one."
        ) from error


class _TreeError(ValueError):
    """A part of a tree that `save` does not write."""


class _Encoder:
    """Turns a state into arrays by name, and a tree of JSON in which their names stand."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self._names: dict[int, str] = {}  # of the arrays that were met, by id
        self._met: list[Any] = []  # which keeps these ids theirs

    def encode(self, value: Any, keys: tuple[Any, ...]) -> Any:
        """Return [kind, content]; `keys` lead to the value."""
        if isinstance(value, Tensor):
            dtype = value.dtype
            name = self._name(value.array, lambda: value._host(), keys)
            return ["tensor", name, "bfloat16"] if dtype.name == "bfloat16" else ["tensor", name]
        if isinstance(value, np.ndarray | np.generic):
            name = self._name(value, lambda: native(np.asarray(value)), keys)
            return ["array" if isinstance(value, np.ndarray) else "scalar", name]
        if isinstance(value, Mapping):
            return ["dict", [self._item(key, each, keys) for key, each in value.items()]]
        if isinstance(value, list | tuple):
            kind = "list" if isinstance(value, list) else "tuple"
            return [kind, [self.encode(each, (*keys, i)) for i, each in enumerate(value)]]
        if value is None or isinstance(value, bool | int | float | str):
            return ["value", value]
        raise _refused(
            keys,
            f"is a {type(value).__name__}; expected a tensor, an array, a plain value, or "
            "a dict, list or tuple of them",
        )

    def _item(self, key: Any, value: Any, keys: tuple[Any, ...]) -> list[Any]:
        if isinstance(key, bool) or not isinstance(key, str | int):
            raise _refused(keys, f"has the key {key!r}; expected strings and integers")
        return [key, self.encode(value, (*keys, key))]

    def _name(self, memory: Any, values: Callable[[], np.ndarray], keys: tuple[Any, ...]) -> str:
        name = self._names.get(id(memory))
        if name is None:
            name = base = ".".join(map(str, keys))
            number = 1
            while name in self.arrays:  # such as {"a.b": x, "a": {"b": y}}
                number += 1
                name = f"{base}#{number}"
            array = values()
            dtype = array.dtype
            self.arrays[name] = array.view(np.uint16) if dtype.name == "bfloat16" else array
            self._names[id(memory)] = name
            self._met.append(memory)
        return name


def _refused(keys: tuple[Any, ...], why: str) -> Exception:
    from tinygrad_char.checkpoint import CheckpointError

    where = "state" + "".join(f"[{key!r}]" for key in keys)
    return CheckpointError(f"cannot save: {where} {why}")


class _Decoder:
    """Turns a tree back; `find` gives what has a name, `tensor` makes a Tensor of it."""

    def __init__(self, find: Callable[[str], Any], tensor: Callable[[Any, Any], Any]) -> None:
        self._find, self._tensor = find, tensor
        self._tensors: dict[str, Any] = {}

    def root(self, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """Return the state whose tree stands in the metadata."""
        state = self.decode(metadata.get("tree"))
        if not isinstance(state, dict):
            raise _TreeError("it is no dict")
        return state

    def decode(self, node: Any) -> Any:
        """Return the value of [kind, content]; _TreeError where there is no such value."""
        match node:
            case ["tensor", str(name)]:
                return self._one_tensor(name, None)
            case ["tensor", str(name), "bfloat16"]:
                return self._one_tensor(name, "bfloat16")
            case ["array", str(name)]:
                return self._found(name)
            case ["scalar", str(name)]:
                found = self._found(name)
                if found.shape != ():
                    raise _TreeError(f"scalar {name!r} has shape {found.shape}")
                return found[()] if isinstance(found, np.ndarray) else found
            case ["dict", [*items]]:
                return dict(self._item(each) for each in items)
            case ["list", [*parts]]:
                return [self.decode(each) for each in parts]
            case ["tuple", [*parts]]:
                return tuple(self.decode(each) for each in parts)
            case ["value", value] if value is None or isinstance(value, bool | int | float | str):
                return value
        text = repr(node)
        raise _TreeError(text if len(text) <= 60 else f"{text[:57]}...")

    def _item(self, item: Any) -> tuple[Any, Any]:
        match item:
            case [str() | int() as key, node]:
                return key, self.decode(node)
        raise _TreeError("an entry of a dict is no pair of key and value")

    def _found(self, name: str) -> Any:
        try:
            return self._find(name)
        except KeyError:
            raise _TreeError(f"there is no tensor {name!r}") from None

    def _one_tensor(self, name: str, dtype: str | None) -> Any:
        """Return the tensor of a name, the same one where it is named again."""
        if name in self._tensors:
            return self._tensors[name]
        found = self._found(name)
        if dtype is not None and found.dtype != np.uint16:
            raise _TreeError(f"tensor {name!r} of bfloat16 lies there as {found.dtype}")
        self._tensors[name] = self._tensor(found, dtype)
        return self._tensors[name]
