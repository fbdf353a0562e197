"""`Tensor`: an array that remembers how it was computed.

Operators and methods follow NumPy's names and broadcasting; gradients follow PyTorch's rules.
dtypes are kept: a float32 tensor and a float64 tensor do not mix. A Python number takes the
tensor's dtype, and OverflowError is raised where that is one of integers and does not hold it.
Integers and booleans that meet a floating tensor take its dtype. Infinities and NaN come out as
IEEE 754 has them, without warnings; see `detect_nonfinite`.
"""

from __future__ import annotations

import copy
import itertools
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tinygrad_char import autograd, modes
from tinygrad_char.autograd import TensorBase, Version
from tinygrad_char.coerce import (
    DEFAULT_DTYPE,
    check_array,
    from_python,
    gradient_array,
)
from tinygrad_char.kernels.array import Array, is_floating, native
from tinygrad_char.kernels.backend import Backend, DeviceError
from tinygrad_char.kernels.devices import DEVICES, backend_of, get_backend
from tinygrad_char.methods.conversion import ConversionMethods
from tinygrad_char.methods.elementwise import ElementwiseMethods
from tinygrad_char.methods.indexing import IndexingMethods
from tinygrad_char.methods.inplace import InPlaceMethods
from tinygrad_char.methods.numpys import NumpyMethods
from tinygrad_char.methods.operators import OperatorMethods
from tinygrad_char.methods.reduction import ReductionMethods
from tinygrad_char.methods.shape import ShapeMethods
from tinygrad_char.modes import quiet
from tinygrad_char.ops import elementwise, shape

Number = bool | int | float


class Tensor(
    ConversionMethods,
    ElementwiseMethods,
    IndexingMethods,
    InPlaceMethods,
    NumpyMethods,
    OperatorMethods,
    ReductionMethods,
    ShapeMethods,
    TensorBase,
):
    """An array on a device, with a gradient if `requires_grad`.

    Parameters
    ----------
    data
        A number, nested sequence, NumPy or CuPy array, or Tensor; it is copied. Arrays keep their
        dtype; Python floats become float32, integers int64.
    dtype
        Another dtype, as NumPy names it: boolean, integer or floating. OverflowError where it is
        one of integers and does not hold an element, truncated.
    device
        "cpu", "cuda" or "cuda-on-cpu"; None keeps an array where it is.
    requires_grad
        Whether operations on this tensor go on the tape, so that `backward` fills `.grad`.
    """

    __slots__ = ()

    @quiet
    def __init__(
        self,
        data: Any,
        dtype: Any = None,
        *,
        device: str | None = None,
        requires_grad: bool = False,
    ) -> None:
        if isinstance(data, TensorBase):
            data = data.array
        if hasattr(data, "__cuda_array_interface__") or isinstance(data, np.ndarray | np.generic):
            if dtype is not None:
                check_array("tensor", data, np.dtype(dtype))
            array = backend_of(data).xp.array(data, dtype=dtype)
        else:
            array = from_python(data, dtype)
        if array.dtype.kind not in "iub" and not is_floating(array.dtype):
            raise TypeError(
                f"a tensor holds booleans, integers or floats, not {array.dtype} (from "
                f"{type(data).__name__})"
            )
        backend = backend_of(array)
        if device is not None and device != backend.name:
            target = get_backend(device)
            array = target.from_numpy(native(backend.to_numpy(array)))
            backend = target
        self._fill(array, backend)
        self.requires_grad_(requires_grad)

    def _fill(self, array: Array, backend: Backend) -> None:
        self.array = array if array.dtype.isnative else native(array)
        self.backend = backend
        self.requires_grad = False
        self.derived = False
        self._grad = None
        self.grad_buffer = None
        self.node = None
        self._view = None
        self.hooks = None
        self.version = Version()

    def _result(self, array: Array) -> Tensor:
        """Return a new tensor around `array`, not copied, on this tensor's device."""
        result = Tensor.__new__(Tensor)
        backend = self.backend
        if type(array) is not backend.array_type:
            backend = backend_of(array)
            array = backend.xp.asarray(array)
        result._fill(array, backend)
        return result

    # What it is

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of the axes."""
        return self.array.shape

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self.array.ndim

    @property
    def size(self) -> int:
        """The number of elements."""
        return self.array.size

    def numel(self) -> int:
        """Return the number of elements, as `size` is."""
        return self.array.size

    @property
    def dtype(self) -> np.dtype:
        """The elements' type, as NumPy's."""
        return self.array.dtype

    @property
    def device(self) -> str:
        """Where the array lives: "cpu", "cuda" or "cuda-on-cpu"."""
        return self.backend.name

    @property
    def is_leaf(self) -> bool:
        """Whether no operation on the tape made this tensor."""
        return self.node is None

    def __len__(self) -> int:
        if not self.array.shape:
            raise TypeError("len() of a tensor without axes")
        return self.array.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        text = np.array2string(self._host(), separator=", ", prefix="Tensor(", threshold=200)
        extra = f", dtype={self.dtype}" if self.dtype not in (DEFAULT_DTYPE, np.int64, bool) else ""
        if self.device != "cpu":
            extra += f", device={self.device!r}"
        if self.node is not None:
            extra += f", made by {type(self.node).__name__.lower()}"
        elif self.requires_grad:
            extra += ", requires_grad=True"
        return f"Tensor({text}{extra})"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else repr(self)

    # Values

    def _host(self) -> np.ndarray:
        return self.backend.to_numpy(self.array)

    def numpy(self) -> np.ndarray:
        """Return the values as a read-only NumPy array that shares memory on the CPU.

        Read-only, because a change made there could not be seen by a pending backward; copy it
        to change it.
        """
        if self.requires_grad:
            raise RuntimeError(
                "numpy() of a tensor that requires grad would leave the graph unseen: call "
                ".detach().numpy()"
            )
        view = self._host().view()
        view.flags.writeable = False
        return view

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if self.device != "cpu":
            raise TypeError(
                f"a tensor on {self.device!r} does not turn into a NumPy array: call .to('cpu')"
            )
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def __dlpack__(self, **options: Any) -> Any:
        if self.requires_grad:
            raise BufferError("a tensor that requires grad cannot be exported: call .detach()")
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()

    def item(self) -> Number:
        """Return the only element as a Python number; ValueError if there is not exactly one."""
        if self.array.size != 1:
            raise ValueError(f"item() of shape {self.shape}: expected exactly one element")
        return self.array.item()

    def tolist(self) -> Any:
        """Return the values as nested Python lists."""
        return self.array.tolist()

    def __bool__(self) -> bool:
        return bool(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __index__(self) -> int:
        if self.dtype.kind not in "iu":
            raise TypeError(f"a {self.dtype} tensor cannot be used as an index")
        if self.size != 1:
            raise TypeError(f"a tensor of shape {self.shape} cannot be used as an index")
        return int(self.item())

    # Gradients

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Ask for a gradient, or no longer, and return self; TypeError unless floating."""
        if requires_grad and not is_floating(self.array.dtype):
            raise TypeError(
                f"only floating tensors can require a gradient, this one is {self.dtype}"
            )
        if not requires_grad and self.node is not None:
            raise RuntimeError("a computed tensor keeps its history: use .detach()")
        self.requires_grad = requires_grad
        self.derived = False
        return self

    @property
    def grad(self) -> Tensor | None:
        """The gradient that backward has added up, of this tensor's shape and dtype, or None.

        Assigning copies an array or a tensor of this shape, converted to this tensor's dtype and
        device, or fills the shape with a number; None clears. A TypeError or ValueError says what
        cannot be a gradient of this tensor.
        """
        return self._grad

    @grad.setter
    def grad(self, value: Any) -> None:
        if value is None:
            self._grad = None
        elif value is not self._grad:
            array = gradient_array(self, value)
            if self.grad_buffer is None:
                self._grad = self._result(array)
            else:
                self._grad = self.grad_buffer
                self._grad.array[...] = array
                self._grad.version.value += 1

    def backward(
        self, gradient: Any = None, *, retain_graph: bool = False, create_graph: bool = False
    ) -> None:
        """Add the gradient of this tensor to `.grad` of every leaf it was computed from.

        Parameters
        ----------
        gradient
            The cotangent, of this tensor's shape; may be left out for a single element (then 1).
        retain_graph, create_graph
            Keep what the operations saved, so that backward can run again; and what `grad` refuses.

        Raises
        ------
        NotImplementedError
            `create_graph` is True: gradients of gradients are not computed.
        RuntimeError
            This tensor requires no gradient, holds several elements and no cotangent was given,
            the graph was freed before, or a tensor that backward needs was changed in place.
        """
        autograd.refuse_second_derivatives("backward", create_graph)
        autograd.backward([self], [self._cotangent(gradient)], retain_graph=retain_graph)

    @quiet
    def _cotangent(self, gradient: Any) -> Array:
        if not self.requires_grad:
            if self.derived:
                raise RuntimeError(
                    f"backward from a tensor of shape {self.shape} that was computed from a result "
                    "of grad(): gradients of gradients are not computed"
                )
            raise RuntimeError(
                f"backward from a tensor of shape {self.shape} that does not require grad: nothing "
                "it was computed from does, or it was computed under no_grad()"
            )
        if gradient is None:
            if self.array.size != 1:
                raise RuntimeError(
                    f"backward from shape {self.shape}: only a single element has an implied "
                    "cotangent of 1; pass one of this shape, or reduce with .sum() or .mean()"
                )
            return self.backend.xp.ones_like(self.array)
        if isinstance(gradient, TensorBase):
            if gradient.backend is not self.backend:
                raise DeviceError(f"cotangent on {gradient.backend} for a tensor on {self.backend}")
            gradient = gradient.array
        array = self.backend.xp.asarray(gradient, dtype=self.array.dtype)
        if array.shape != self.array.shape:
            raise ValueError(f"cotangent of shape {array.shape} for a tensor of shape {self.shape}")
        return array

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget `.grad`; with set_to_none=False, fill one that is there with 0."""
        if set_to_none:
            self.grad = None
        elif self._grad is not None:
            self.grad = 0.0

    def register_hook(self, hook: Callable[[Tensor], Any]) -> HookHandle:
        """Call `hook(gradient)` in each backward; what it returns, if not None, replaces it.

        A leaf's hook sees the sum of all that reaches it. The handle's `remove()` ends it.
        """
        if not self.requires_grad:
            raise RuntimeError("register_hook on a tensor that does not require grad")
        owner: Any = self if self.node is None else self.node
        if owner.hooks is None:
            owner.hooks = {}
        return HookHandle(owner.hooks, hook)

    def retain_grad(self) -> None:
        """Keep the gradient of a computed tensor in `.grad` in each backward, as leaves do."""
        if self.node is not None:
            self.node.retained = weakref.ref(self)

    def detach(self) -> Tensor:
        """Return a tensor that shares the memory and not the history."""
        result = self._result(self.array)
        result.version = self.version
        return result

    @property
    def data(self) -> Tensor:
        """The values without history; assigning writes them in place (`p.data -= lr * p.grad`)."""
        return self.detach()

    @data.setter
    def data(self, values: Any) -> None:
        with modes.no_grad():
            self.copy_(values)

    # Where and what dtype

    def to(self, target: Any) -> Tensor:
        """Return this tensor on another device (see `device`) or in another dtype."""
        if target == self.device:
            return self
        if isinstance(target, str) and target in DEVICES:
            return shape.Transfer.apply(self, target=get_backend(target))
        try:
            if target is None:
                raise TypeError  # which NumPy reads as float64
            dtype = np.dtype(target)
        except TypeError:
            raise DeviceError(f"to({target!r}): expected a device {DEVICES} or a dtype") from None
        return self.astype(dtype)

    def cpu(self) -> Tensor:
        """Return this tensor on the CPU: itself where it is there, else a copy, on the tape."""
        return self.to("cpu")

    def cuda(self) -> Tensor:
        """Return this tensor on the GPU, as `cpu` does; DeviceError where there is none."""
        return self.to("cuda")

    @quiet
    def astype(self, dtype: Any) -> Tensor:
        """Return this tensor in another dtype; differentiable between floating dtypes.

        What an integer dtype does not hold comes out as NumPy's `astype` has it: integers wrap
        around. `Tensor(t, dtype)` raises OverflowError instead.
        """
        dtype = np.dtype(dtype).newbyteorder("=")
        if dtype == self.dtype:
            return self
        if dtype.kind not in "iub" and not is_floating(dtype):
            raise TypeError(f"astype({str(dtype)!r}): a tensor holds booleans, integers or floats")
        if is_floating(dtype) and is_floating(self.dtype):
            return elementwise.Cast.apply(self, dtype=dtype)
        return self._result(self.array.astype(dtype))

    def contiguous(self) -> Tensor:
        """Return self, or a copy where the elements do not lie in order in memory."""
        return self if self.array.flags.c_contiguous else self.clone()

    def clone(self) -> Tensor:
        """Return a copy that is on the tape: its gradient goes on to this tensor."""
        return shape.Copy.apply(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if self.node is not None:
            raise RuntimeError("only leaves can be copied deeply: detach() first")
        result = type(self).__new__(type(self))
        result._fill(self.array.copy(), self.backend)
        result.requires_grad = self.requires_grad
        memo[id(self)] = result
        if self.grad is not None:
            result.grad = copy.deepcopy(self.grad, memo)
        vars_of(result).update(copy.deepcopy(vars_of(self), memo))
        return result

    def __copy__(self) -> Tensor:
        result = type(self).__new__(type(self))
        for name in TensorBase.__slots__:
            if name != "__weakref__" and hasattr(self, name):
                setattr(result, name, getattr(self, name))
        vars_of(result).update(vars_of(self))
        return result

    def __reduce__(self) -> tuple[Any, ...]:
        """Return values, gradient and the device's name: what a pickle keeps, without hooks."""
        if self.node is not None:
            raise RuntimeError("only leaves can be pickled: detach() first")
        grad = None if self.grad is None else self.grad._host()
        parts = (type(self), self._host(), self.device, self.requires_grad, grad)
        return unpickled, parts, vars_of(self) or None


def vars_of(tensor: Tensor) -> dict[str, Any]:
    """Return the attributes that a subclass without slots has added."""
    return getattr(tensor, "__dict__", {})


def unpickled(
    kind: type[Tensor], values: np.ndarray, device: str, requires_grad: bool, grad: Any
) -> Tensor:
    """Return the tensor that `Tensor.__reduce__` took apart.

    Raises
    ------
    DeviceError
        This machine lacks the device.
    """
    try:
        backend = get_backend(device)
    except DeviceError as error:
        raise DeviceError(
            f"a tensor {values.shape} was pickled on {device!r}, which is not to be had here: "
            f"{error}; move it to the CPU before pickling"
        ) from error
    result = kind.__new__(kind)
    result._fill(backend.from_numpy(np.array(values)), backend)
    result.requires_grad = requires_grad
    if grad is not None:
        result.grad = result._result(backend.from_numpy(np.array(grad)))
    return result


_hook_numbers = itertools.count()


class HookHandle:
    """A registered hook, which `remove()` ends."""

    def __init__(self, hooks: dict[int, Callable[..., Any]], hook: Callable[..., Any]) -> None:
        self._hooks = hooks
        self._number = next(_hook_numbers)  # an id could be taken again once a handle is forgotten
        hooks[self._number] = hook

    def remove(self) -> None:
        """End the hook; calling it twice does no harm."""
        self._hooks.pop(self._number, None)
