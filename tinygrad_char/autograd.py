"""The tape: how operations are recorded and walked backward.

Each operation is a `Function`: its forward and backward on raw arrays, and the state saved
between them. `Function.apply` runs forward and, when a gradient may be asked for, links the
result to its inputs. `backward` and `grad` walk these links from the newest operation to the
oldest, without recursion, so the depth of an expression has no limit.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from kernels.array import Array, is_floating
from kernels.backend import Backend, DeviceError
from kernels.half import FLOAT32, is_half, rounded, widened

if TYPE_CHECKING:
    from tinygrad_char.tensor import Tensor


quiet = np.errstate(all="ignore")
"""Decorator of what computes values: log(0) is -inf and no warning, as on a GPU.

`detect_nonfinite` is there for those who want to know.
"""


class NonFiniteError(FloatingPointError):
    """The first operation, under `detect_nonfinite`, that produced a NaN or an infinity."""


class _ThreadState(threading.local):
    recording = True
    checking = False
    trace: Trace | None = None


_state = _ThreadState()
_order = itertools.count()
_accumulating = threading.Lock()


class Version:
    """Counts the in-place changes of one piece of memory; views share one."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0


class TensorBase:
    """What the tape knows of a tensor: its array, who made it, and where its gradient goes."""

    __slots__ = (
        "__weakref__",
        "array",
        "backend",
        "grad",
        "grad_buffer",
        "hooks",
        "node",
        "requires_grad",
        "version",
    )

    array: Array
    backend: Backend
    grad: Any
    grad_buffer: Any  # the Tensor that becomes `grad`, where an optimizer has given one
    hooks: dict[int, Callable] | None
    node: Function | None
    requires_grad: bool
    version: Version


Edge = Any  # the Function that made an input, the leaf Tensor itself, or None


class Function:
    """One operation: forward, backward, and what is saved between them.

    A subclass defines `forward(*arrays, **options) -> array` and `backward(grad) -> gradient or
    tuple of gradients`, one for each input and None where `self.needs` is False. Inputs that are
    Python numbers, or None, reach forward as they are and have no gradient. forward puts what
    backward will want into `self.saved`, a tuple; of arrays that belong to an input or to the
    result, the tape checks that nobody changed them before backward.
    """

    is_view: ClassVar[bool] = False
    """Whether the result may share its first input's memory."""

    adds: bool = False
    """Whether backward adds `addend`, where that is an array, to the gradient of the first input.

    It is what that input has from other operations so far, and is not to be written to.
    """

    upcasts: ClassVar[bool] = False
    """Whether float16 inputs reach forward as float32, and its result is rounded once.

    So it is with the cotangent and the gradients in backward, and on the CPU with bfloat16. All
    operations that compute something set it; those that only move elements have nothing to round.
    """

    backend: Backend
    needs: tuple[bool, ...]
    halves: tuple[Any, ...] = ()  # for each input the dtype that it was upcast from, or None
    addend: Any = None
    saved: tuple[Any, ...] = ()
    edges: list[Edge] | None = None
    versions: Sequence[tuple[Version, int]] = ()
    hooks: dict[int, Callable] | None = None
    retained: Any = None  # a weak reference to the result, where it keeps its gradient
    shape: tuple[int, ...]
    dtype: Any
    order: int

    def forward(self, *inputs: Any, **options: Any) -> Array:
        """Return the result's array."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward")

    def backward(self, grad: Array) -> Any:
        """Return the gradients of the inputs, given the gradient of the result."""
        raise NotImplementedError(f"{type(self).__name__} defines no backward")

    @quiet
    def run_forward(self, arrays: Sequence[Any], options: dict[str, Any]) -> Array:
        """Return forward(*arrays, **options), computed as `upcasts` says."""
        self.halves = ()
        if not self.upcasts or not any(map(is_half, arrays)):
            return self.forward(*arrays, **options)
        self.halves = tuple(each.dtype if is_half(each) else None for each in arrays)
        result = self.forward(*map(widened, arrays), **options)
        dtype = next(each for each in self.halves if each is not None)
        return rounded(result, dtype) if getattr(result, "dtype", None) == FLOAT32 else result

    def run_backward(self, grad: Array) -> tuple[Any, ...]:
        """Return what backward(grad) returns, as a tuple, computed as `upcasts` says."""
        if self.halves:
            grad, self.addend = widened(grad), widened(self.addend)
        grads = self.backward(grad)
        if not isinstance(grads, tuple):
            grads = (grads,)
        if len(grads) != len(self.halves):
            return grads
        return tuple(
            each if each is None or dtype is None else rounded(each, dtype)
            for each, dtype in zip(grads, self.halves, strict=True)
        )

    @classmethod
    def apply(cls, *inputs: Any, **options: Any) -> Tensor:
        """Run forward on the inputs' arrays and record the operation if a gradient may follow."""
        node = cls()
        arrays = []
        needs = []
        first: Any = None
        for each in inputs:
            if isinstance(each, TensorBase):
                arrays.append(each.array)
                needs.append(each.requires_grad)
                if first is None:
                    first = each
                elif each.backend is not first.backend:
                    raise DeviceError(
                        f"{cls.__name__.lower()}: tensors on {first.backend} and {each.backend}; "
                        f"move one of them with .to({first.backend.name!r})"
                    )
            else:
                arrays.append(each)
                needs.append(False)
        if first is None:
            raise TypeError(
                f"{cls.__name__.lower()}: expected at least one tensor, got "
                f"{[type(each).__name__ for each in inputs]}"
            )
        node.backend = first.backend
        state = _state
        record = state.recording and any(needs)
        node.needs = tuple(needs) if record else (False,) * len(needs)
        array = node.run_forward(arrays, options)
        if state.checking:
            _check_finite(cls.__name__, "forward", (array,), arrays)
        result = first._result(array)
        if node.is_view and _owner(result.array) is _owner(first.array):
            result.version = first.version
        if record:
            node._link(inputs, result)
        if state.trace is not None:
            state.trace.operations.append(Operation(node, inputs, options, result))
        return result

    def _link(self, inputs: tuple[Any, ...], result: Any) -> None:
        self.order = next(_order)
        self.edges = [
            (each.node or each) if need else None
            for each, need in zip(inputs, self.needs, strict=True)
        ]
        array = result.array
        self.shape, self.dtype, self.backend = array.shape, array.dtype, result.backend
        if self.saved:
            tensors = [each for each in inputs if isinstance(each, TensorBase)]
            tensors.append(result)
            self.versions = self._versions_of(tensors)
        result.node = self
        result.requires_grad = True

    def _versions_of(self, tensors: list[Any]) -> list[tuple[Version, int]]:
        """Return the versions of the tensors whose memory was saved; views share one."""
        versions = []
        owners: list[Any] = []
        for value in self.saved:
            if value is None:
                continue
            for each in tensors:
                if each.array is value:
                    versions.append((each.version, each.version.value))
                    break
            else:  # made by forward: memory of its own, or a part of a tensor's
                owner = _owner(value)
                owners = owners or [_owner(each.array) for each in tensors]
                for each, other in zip(tensors, owners, strict=True):
                    # An owner may be the optimizer's buffer, which its parameters do not share.
                    if other is owner and self.backend.xp.may_share_memory(value, each.array):
                        versions.append((each.version, each.version.value))
        return versions

    def _gradients(self, grad: Array, keep: bool) -> list[tuple[Edge, Array]]:
        """Run backward, check what it returns, and pair it with the inputs' edges."""
        name = type(self).__name__
        edges = self.edges
        if edges is None:
            raise RuntimeError(
                f"backward through {name.lower()}: its saved values were freed by an earlier "
                "backward; pass retain_graph=True to that one to walk the graph twice"
            )
        for version, value in self.versions:
            if version.value != value:
                raise RuntimeError(
                    f"backward through {name.lower()} needs a tensor of shape "
                    f"{self.shape} or one of its inputs as it was, but it was changed in place "
                    f"{version.value - value} time(s) since; change a copy, or call backward first"
                )
        grads = self.run_backward(grad)
        if len(grads) != len(edges):
            raise RuntimeError(
                f"backward of {name} returned {len(grads)} gradient(s) for {len(edges)} input(s); "
                "expected a tuple with one for each, None where an input needs none"
            )
        results = []
        for edge, need, each in zip(edges, self.needs, grads, strict=True):
            if need:
                _check_gradient(name, edge, each)
                results.append((edge, each))
        if _state.checking:
            _check_finite(name, "backward", [each for _, each in results], (grad, *self.saved))
        if not keep:
            self.saved, self.edges = (), None
        return results


def _owner(value: Any) -> Any:
    """Return the object that holds the memory behind an array, the same for all views of it."""
    base = getattr(value, "base", None)
    while base is not None:
        value, base = base, getattr(base, "base", None)
    return value


def _check_gradient(name: str, edge: Edge, grad: Any) -> None:
    expected = edge if isinstance(edge, Function) else edge.array
    is_array = isinstance(grad, (edge.backend.array_type, np.generic))
    if not is_array or grad.shape != expected.shape or grad.dtype != expected.dtype:
        got = f"{grad.dtype} of shape {grad.shape}" if is_array else type(grad).__name__
        raise RuntimeError(
            f"backward of {name} returned {got} for an input that is {expected.dtype} of shape "
            f"{expected.shape}"
        )


def _check_finite(name: str, stage: str, results: Sequence[Any], inputs: Sequence[Any]) -> None:
    for result in results:
        if not is_floating(result.dtype) or bool((abs(result) < float("inf")).all()):
            continue
        ranges = ", ".join(
            _describe_range(each) for each in inputs if hasattr(each, "dtype") and each.size
        )
        raise NonFiniteError(
            f"{stage} of {name.lower()} produced a value that is not finite; its inputs: {ranges}"
        )


def _describe_range(array: Array) -> str:
    text = f"{array.dtype} {tuple(array.shape)}"
    if is_floating(array.dtype):
        bad = int((~(abs(array) < float("inf"))).sum())
        text += f" from {float(array.min()):.4g} to {float(array.max()):.4g}"
        if bad:
            text += f" with {bad} not finite"
    return text


@contextlib.contextmanager
def no_grad() -> Iterator[None]:
    """Record nothing in this thread: results need no gradient and save nothing.

    Works as a context manager and, being a function's decorator as well, for whole functions.
    """
    before = _state.recording
    _state.recording = False
    try:
        yield
    finally:
        _state.recording = before


def is_grad_enabled() -> bool:
    """Return whether operations of this thread are recorded."""
    return _state.recording


def is_detecting_nonfinite() -> bool:
    """Return whether `detect_nonfinite` is on in this thread."""
    return _state.checking


class Operation(NamedTuple):
    """One call of `Function.apply`."""

    node: Function
    inputs: tuple[Any, ...]
    options: dict[str, Any]
    result: Tensor


class Trace:
    """The operations of a thread in order.

    `obstacle` says what was done besides that repeating them would leave out.
    """

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.obstacle: str | None = None


@contextlib.contextmanager
def tracing() -> Iterator[Trace]:
    """List the operations of this thread, recorded for backward or not."""
    before = _state.trace
    _state.trace = Trace()
    try:
        yield _state.trace
    finally:
        _state.trace = before


def note_change(tensor: TensorBase) -> None:
    """Count an in-place change of a tensor's memory."""
    tensor.version.value += 1
    if _state.trace is not None:
        _state.trace.obstacle = "a tensor is changed in place"


@contextlib.contextmanager
def detect_nonfinite() -> Iterator[None]:
    """Check every result, forward and backward, in this thread.

    Raises
    ------
    NonFiniteError
        At the first operation that produced a NaN or an infinity: it is named, with the ranges
        of its inputs.
    """
    before = _state.checking
    _state.checking = True
    try:
        yield
    finally:
        _state.checking = before


@quiet
def backward(
    outputs: Sequence[Tensor], grads: Sequence[Array], *, retain_graph: bool = False
) -> None:
    """Add the gradients of sum_i <outputs_i, grads_i> to `.grad` of every leaf they depend on."""
    accumulation = Accumulation()
    _walk(outputs, grads, accumulation.add, {}, retain_graph)
    accumulation.finish()


class Accumulation:
    """Adds gradients to `.grad` of leaves; those with hooks get theirs whole, at the end.

    So do leaves of float16, whose parts are added up in float32 and rounded once.
    """

    def __init__(self) -> None:
        self._deferred: dict[int, tuple[Tensor, Array]] = {}

    def add(self, leaf: Tensor, grad: Array) -> None:
        """Take a part of the leaf's gradient."""
        if leaf.hooks or is_half(grad):
            before = self._deferred.get(id(leaf))
            self._deferred[id(leaf)] = (leaf, grad if before is None else _sum(before[1], grad))
        else:
            _accumulate(leaf, grad)

    def finish(self) -> None:
        """Run the hooks on the gradients that they wait for."""
        for leaf, total in self._deferred.values():
            total = rounded(total, leaf.array.dtype)
            _accumulate(leaf, _run_hooks(leaf.hooks, total, leaf))


@quiet
def leaf_gradients(
    output: Tensor, cotangent: Array, leaves: Sequence[Tensor]
) -> list[Array | None]:
    """Return the gradients of <output, cotangent> by leaves, without hooks; None if not reached.

    The arrays may be shared with each other and are not to be written to.
    """
    found: dict[int, Array] = {}

    def at_leaf(leaf: Tensor, grad: Array) -> None:
        before = found.get(id(leaf))
        found[id(leaf)] = grad if before is None else _sum(before, grad)

    _walk((output,), (cotangent,), at_leaf, {}, False)
    totals = [found.get(id(each)) for each in leaves]
    return [
        each if each is None else rounded(each, leaf.array.dtype)
        for each, leaf in zip(totals, leaves, strict=True)
    ]


def _sum(total: Array, grad: Array) -> Array:
    """Return the sum of two gradients, where they are float16 in float32, to be rounded later."""
    return widened(total) + grad


@quiet
def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Any = None,
    *,
    retain_graph: bool = False,
    allow_unused: bool = False,
) -> list[Any]:
    """Return the gradients of `outputs` by `inputs` and leave every `.grad` alone.

    Parameters
    ----------
    outputs, inputs
        A tensor or a sequence of tensors. Inputs may be leaves or results of operations.
    grad_outputs
        The cotangents: None (ones; then every output must hold one element), an array or tensor
        for a single output, or a list or tuple with one, or None, for each output.
    retain_graph
        Keep what the operations saved, so that the graph can be walked again.
    allow_unused
        Return None, instead of raising, for an input that no output depends on.

    Raises
    ------
    RuntimeError
        An output needs no gradient, or an input is not reached.
    ValueError
        There are not as many cotangents as outputs.
    """
    outputs = [outputs] if isinstance(outputs, TensorBase) else list(outputs)
    inputs = [inputs] if isinstance(inputs, TensorBase) else list(inputs)
    if grad_outputs is None:
        grad_outputs = [None] * len(outputs)
    elif not isinstance(grad_outputs, list | tuple):
        grad_outputs = [grad_outputs]
    if len(grad_outputs) != len(outputs):
        raise ValueError(
            f"grad: {len(grad_outputs)} cotangent(s) for {len(outputs)} output(s); pass a list "
            "with one for each"
        )
    cotangents = [
        output._cotangent(each) for output, each in zip(outputs, grad_outputs, strict=True)
    ]
    found: dict[int, Array] = {}
    wanted = {id(each.node or each): each for each in inputs}

    def at_leaf(leaf: Tensor, grad: Array) -> None:
        if id(leaf) in wanted:
            before = found.get(id(leaf))
            found[id(leaf)] = grad if before is None else _sum(before, grad)

    _walk(outputs, cotangents, at_leaf, found, retain_graph, wanted)
    for key in found:
        found[key] = rounded(found[key], wanted[key].array.dtype)
        if wanted[key].node is None:
            found[key] = _run_hooks(wanted[key].hooks, found[key], wanted[key])
    results: list[Any] = []
    for position, each in enumerate(inputs):
        array = found.get(id(each.node or each))
        if array is None and not allow_unused:
            raise RuntimeError(
                f"grad: no output depends on input {position} (shape {each.shape}, requires_grad="
                f"{each.requires_grad}); pass allow_unused=True to get None for it"
            )
        results.append(None if array is None else each._result(array.copy()))
    return results


def _walk(
    outputs: Sequence[Tensor],
    grads: Sequence[Array],
    at_leaf: Callable[[Tensor, Array], None],
    found: dict[int, Array],
    keep: bool,
    wanted: dict[int, Any] | None = None,
) -> None:
    """Visit every operation that a gradient reaches, newest first, which is topological order.

    With `wanted` the walk ends where nothing that is wanted can follow, so that what lies before
    the inputs of `grad` is neither computed nor freed.
    """
    orders = [-1 if each.node is None else each.node.order for each in (wanted or {}).values()]
    oldest = min(orders, default=-1)
    pending: dict[Function, Array] = {}
    owned: set[Function] = set()  # sums made here, which may be added to in place
    heap: list[tuple[int, Function]] = []

    def receive(edge: Edge, grad: Array) -> None:
        if not isinstance(edge, Function):
            at_leaf(edge, grad)
        elif edge not in pending:
            pending[edge] = grad
            heapq.heappush(heap, (-edge.order, edge))
        elif edge in owned:
            pending[edge] += grad
        else:
            pending[edge] = _sum(pending[edge], grad)
            owned.add(edge)

    for output, each in zip(outputs, grads, strict=True):
        receive(output.node or output, each)
    while heap and heap[0][0] <= -oldest:
        node = heapq.heappop(heap)[1]
        total = rounded(pending.pop(node), node.dtype)
        owned.discard(node)
        if node.hooks:
            total = _run_hooks(node.hooks, total, outputs[0])
        if wanted is None and node.retained is not None and (result := node.retained()) is not None:
            _accumulate(result, total)
        if wanted and id(node) in wanted:
            found[id(node)] = total
        if node.order == oldest:
            break
        first = node.edges[0] if node.adds and node.edges else None
        node.addend = pending.get(first) if isinstance(first, Function) else None
        for edge, each in node._gradients(total, keep):
            if node.addend is not None:  # this is the first input's, with what it had so far
                pending[edge], node.addend = each, None
                owned.add(edge)
            else:
                receive(edge, each)


def _accumulate(leaf: Tensor, grad: Array) -> None:
    with _accumulating:
        if leaf.grad is not None:
            total = leaf.grad.array
            leaf.backend.xp.add(total, grad, out=total)
            leaf.grad.version.value += 1
        elif leaf.grad_buffer is not None:
            leaf.grad = leaf.grad_buffer
            if grad is not leaf.grad.array:  # where a kernel may have written it at once
                leaf.grad.array[...] = grad
            leaf.grad.version.value += 1
        else:
            leaf.grad = leaf._result(leaf.backend.xp.array(grad))


def _run_hooks(hooks: dict[int, Callable] | None, grad: Array, like: Tensor) -> Array:
    if not hooks:
        return grad
    # A copy, since the array may be on its way to other inputs too and a hook may write into it.
    gradient = like._result(grad.copy())
    for hook in list(hooks.values()):
        replacement = hook(gradient)
        if replacement is None:
            continue
        if not isinstance(replacement, TensorBase):
            replacement = like._result(like.backend.xp.asarray(replacement))
        array = replacement.array
        if array.shape != grad.shape or array.dtype != grad.dtype:
            raise RuntimeError(
                f"hook returned {array.dtype} of shape {array.shape} for a gradient that is "
                f"{grad.dtype} of shape {grad.shape}"
            )
        gradient = replacement
    return gradient.array
