"""`Module`: a part of a model, with its parameters, buffers and parts by name."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, Self

import numpy as np

from tinygrad_char.kernels import operations
from tinygrad_char.kernels.array import is_floating
from tinygrad_char.kernels.devices import get_backend
from tinygrad_char.modes import no_grad
from tinygrad_char.tensor import HookHandle, Tensor


class Parameter(Tensor):
    """A tensor that a Module registers as its own; it requires a gradient unless it is frozen."""

    __slots__ = ()

    def __init__(self, data: Any, dtype: Any = None, *, requires_grad: bool = True) -> None:
        super().__init__(data, dtype, requires_grad=requires_grad)


class _Hooks(NamedTuple):
    """What is called before and after forward, by number."""

    before: dict[int, Callable[..., Any]]
    after: dict[int, Callable[..., Any]]


_hooked: set[weakref.ref[Module]] = set()  # those that have had a hook, while they are held


def has_forward_hooks() -> bool:
    """Return whether any module has a forward hook, which a repeated step would leave out."""
    if not _hooked:
        return False
    modules = [each() for each in list(_hooked)]
    return any(any(each._hooks or ()) for each in modules if each is not None)


_changes = 0  # of what modules consist of, and of how they compute


def modules_state() -> tuple[int, frozenset[int]]:
    """Return what is another value after any module is given another part, mode or settings."""
    return _changes, _evaluated.get()


def _note_change() -> None:
    global _changes
    _changes += 1


class Module:
    """A part of a model.

    A subclass sets parameters (`Parameter`), buffers (`register_buffer`) and further modules as
    attributes in `__init__`, after `super().__init__()`, and defines `forward`; calling the
    module calls it.
    """

    settings: operations.Settings | None = None
    """What it asks of the operations that it calls, such as Settings(tf32=True)."""
    _hooks: _Hooks | None = None

    def __init__(self) -> None:
        self._registered: dict[str, dict[str, Any]] = {"parameter": {}, "buffer": {}, "module": {}}
        self.training = True

    @property
    def training(self) -> bool:
        """Whether it is being trained (dropout, batch statistics): not under `EvaluationMode`."""
        return self.__dict__.get("training", True) and id(self) not in _evaluated.get()

    @training.setter
    def training(self, mode: bool) -> None:
        if self.__dict__.get("training", mode) is not mode:
            _note_change()
        self.__dict__["training"] = mode

    def __setattr__(self, name: str, value: Any) -> None:
        registered = self.__dict__.get("_registered")
        kind = _kind(value)
        if registered is None:
            if kind in ("parameter", "module"):
                raise AttributeError(
                    f"{type(self).__name__}: call super().__init__() before setting {name!r}"
                )
        else:
            was = next((each for each, members in registered.items() if name in members), None)
            if was == "parameter" and kind == "buffer":
                raise TypeError(
                    f"{type(self).__name__}: {name!r} is a parameter; to replace it give a "
                    "Parameter, to change its values use copy_"
                )
            if kind == "buffer" and was != "buffer":
                kind = None  # only register_buffer makes one; a tensor in its place stays one
            if was not in (None, kind):
                del registered[was][name]
            if kind is not None:
                registered[kind][name] = value
            registers = kind is not None or was is not None or name == "settings"
            if registers and getattr(self, name, None) is not value:
                _note_change()
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        for members in self._registered.values():
            members.pop(name, None)
        _note_change()
        object.__delattr__(self, name)

    def register_buffer(self, name: str, tensor: Tensor) -> None:
        """Set a tensor that is saved with the parameters and not trained.

        Raises
        ------
        TypeError
            It is no tensor, or a parameter.
        """
        if _kind(tensor) != "buffer":
            raise TypeError(
                f"{type(self).__name__}: buffer {name!r} is a {type(tensor).__name__}, expected a "
                "tensor that is no Parameter"
            )
        setattr(self, name, tensor)
        self._registered["buffer"][name] = tensor

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what calling the module gives: each subclass defines it."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return forward(...), by way of the hooks, under the settings."""
        if self.settings is not None:
            with operations.within(self.settings):
                return self._through_hooks(args, kwargs)
        return self._through_hooks(args, kwargs)

    def _through_hooks(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._hooks is None:
            return self.forward(*args, **kwargs)
        for hook in list(self._hooks.before.values()):
            changed = hook(self, args)
            if changed is not None:
                args = changed if isinstance(changed, tuple) else (changed,)
        result = self.forward(*args, **kwargs)
        for hook in list(self._hooks.after.values()):
            changed = hook(self, args, result)
            result = result if changed is None else changed
        return result

    def register_forward_pre_hook(
        self, hook: Callable[[Module, tuple[Any, ...]], Any]
    ) -> HookHandle:
        """Call `hook(module, args)` before each forward; what it returns replaces the arguments.

        A tuple of the positional arguments, the only one of them, or None to keep them. The
        handle's `remove()` ends it. While a module has hooks, steps are run and not repeated.
        Copies have the same hooks, pickles none.
        """
        return HookHandle(self._hook_lists().before, hook)

    def register_forward_hook(
        self, hook: Callable[[Module, tuple[Any, ...], Any], Any]
    ) -> HookHandle:
        """Call `hook(module, args, result)` after each forward; as `register_forward_pre_hook`.

        What it returns, if not None, replaces the result.
        """
        return HookHandle(self._hook_lists().after, hook)

    def _hook_lists(self) -> _Hooks:
        if self._hooks is None:
            self._hooks = _Hooks({}, {})
        _hooked.add(weakref.ref(self, _hooked.discard))
        return self._hooks

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_hooks"}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        result = type(self).__new__(type(self))
        memo[id(self)] = result
        vars(result).update(copy.deepcopy(vars(self), memo))
        if self._hooks is not None:
            _hooked.add(weakref.ref(result, _hooked.discard))
        return result

    def children(self) -> Iterator[tuple[str, Module]]:
        """Yield the direct parts with their names."""
        yield from self._registered["module"].items()

    def apply(self, function: Callable[[Module], Any]) -> Self:
        """Call `function` once with each part, innermost first, and this module; return self."""
        seen = {id(self)}
        pending: list[tuple[Module, Iterator[tuple[str, Module]]]] = [(self, self.children())]
        while pending:
            module, parts = pending[-1]
            part = next((each for _, each in parts if id(each) not in seen), None)
            if part is None:
                pending.pop()
                function(module)
            else:
                seen.add(id(part))
                pending.append((part, part.children()))
        return self

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """Yield this module and all its parts, with dotted names; a shared one once."""
        seen: set[int] = set()
        stack = [(prefix, self)]
        while stack:
            name, module = stack.pop()
            if id(module) in seen:
                continue
            seen.add(id(module))
            yield name, module
            parts = [(f"{name}.{part}" if name else part, each) for part, each in module.children()]
            stack.extend(reversed(parts))

    def modules(self) -> Iterator[Module]:
        """Yield this module and all its parts, a shared one once."""
        return (module for _, module in self.named_modules())

    def _named(self, kind: str) -> Iterator[tuple[str, Tensor]]:
        seen: set[int] = set()
        for prefix, module in self.named_modules():
            for name, tensor in module._registered[kind].items():
                if id(tensor) not in seen:
                    seen.add(id(tensor))
                    yield (f"{prefix}.{name}" if prefix else name), tensor

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Yield the parameters with dotted names; a shared one once, under its first name."""
        return self._named("parameter")  # type: ignore[return-value]

    def parameters(self) -> Iterator[Parameter]:
        """Yield the parameters of this module and all its parts, a shared one once."""
        return (parameter for _, parameter in self.named_parameters())

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the buffers with dotted names; a shared one once, under its first name."""
        return self._named("buffer")

    def num_parameters(self) -> int:
        """Return how many elements all parameters have; a shared parameter counts once."""
        return sum(parameter.size for parameter in self.parameters())

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all parameters; with set_to_none=False, fill them with 0."""
        for parameter in self.parameters():
            parameter.zero_grad(set_to_none)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Let all parameters train, or freeze them (False), and return self.

        Gradients that are there stay; an optimizer leaves frozen parameters alone.
        """
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def train(self, mode: bool = True) -> Self:
        """Set this module and its parts to training, or not, and return self."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Set this module and its parts to evaluation and return self."""
        return self.train(False)

    def to(self, device: str) -> Self:
        """Move parameters and buffers to a device and return self; make the optimizer after it."""
        backend = get_backend(device)

        def move(tensor: Tensor) -> None:
            if tensor.backend is not backend:
                tensor.array = backend.from_numpy(tensor.backend.to_numpy(tensor.array))
                tensor.backend = backend
                tensor.grad = tensor.grad_buffer = None

        return self._apply(move)

    def astype(self, dtype: Any) -> Self:
        """Convert parameters and floating buffers and return self; make the optimizer after it."""
        target = np.dtype(dtype)
        if not is_floating(target):
            raise TypeError(f"astype({target}): parameters are floating")

        def convert(tensor: Tensor) -> None:
            if is_floating(tensor.dtype) and tensor.dtype != target:
                tensor.array = tensor.array.astype(target)
                tensor.grad = tensor.grad_buffer = None

        return self._apply(convert)

    def _apply(self, change: Callable[[Tensor], None]) -> Self:
        for kind in ("parameter", "buffer"):
            for _, tensor in self._named(kind):
                change(tensor)
        return self

    def state_dict(self) -> dict[str, Tensor]:
        """Return parameters and buffers by dotted name, without history, sharing memory."""
        return {
            name: tensor.detach()
            for kind in ("parameter", "buffer")
            for name, tensor in self._named(kind)
        }

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Copy values (tensors or arrays) into parameters and buffers of the same names.

        Raises
        ------
        ValueError
            Names are missing or left over (`strict`), or a shape or dtype differs. Every
            difference is listed, and nothing is changed.
        """
        own = {name: t for kind in ("parameter", "buffer") for name, t in self._named(kind)}
        missing = [f"  missing     {name} {own[name].shape}" for name in own if name not in state]
        surplus = [f"  unexpected  {name} {state[name].shape}" for name in state if name not in own]
        different = [
            f"  different   {name}: given {state[name].shape} {state[name].dtype}, "
            f"expected {own[name].shape} {own[name].dtype}"
            for name in own
            if name in state
            and (
                state[name].shape != own[name].shape
                or state[name].dtype.newbyteorder("=") != own[name].dtype
            )
        ]
        problems = different + (missing + surplus if strict else [])
        if problems:
            raise ValueError(
                f"load_state_dict: {len(problems)} difference(s) from this "
                f"{type(self).__name__}:\n" + "\n".join(problems)
            )
        with no_grad():
            for name, tensor in own.items():
                if name in state:
                    tensor.copy_(state[name])

    def extra_repr(self) -> str:
        """Return what `repr` shows between the parentheses."""
        return ""

    def __repr__(self) -> str:
        parts = [
            f"  ({name}): " + repr(module).replace("\n", "\n  ") for name, module in self.children()
        ]
        name = type(self).__name__
        if not parts:
            return f"{name}({self.extra_repr()})"
        return "\n".join([f"{name}({self.extra_repr()}", *parts, ")"])


_evaluated: ContextVar[frozenset[int]] = ContextVar("evaluated modules", default=frozenset())


class EvaluationMode:
    """A module and its parts in evaluation, for the thread that asks for it and nobody else.

    Within `active` their `training` is False, whatever `train` and `eval` have set or set
    meanwhile; the threads of `Workers` that are given work there see the same.
    """

    def __init__(self, module: Module) -> None:
        self._modules = tuple(module.modules())  # as long as these are held, so are their ids
        self._ids = frozenset(map(id, self._modules))

    @contextmanager
    def active(self) -> Iterator[None]:
        """Evaluate until the block ends."""
        outer = _evaluated.get()
        token = _evaluated.set(outer | self._ids if outer else self._ids)
        try:
            yield
        finally:
            _evaluated.reset(token)


def _kind(value: Any) -> str | None:
    if isinstance(value, Parameter):
        return "parameter"
    if isinstance(value, Module):
        return "module"
    return "buffer" if isinstance(value, Tensor) else None
