"""The tape: how operations are linked, and walked backward.

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
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

from tinygrad_char.checks import check_finite, check_gradient, check_result
from tinygrad_char.kernels import add
from tinygrad_char.kernels.array import FLOAT32, Array, any_half, is_half, rounded, widened
from tinygrad_char.kernels.backend import Backend, DeviceError
from tinygrad_char.kernels.cpu.forks import in_forked_children
from tinygrad_char.kernels.operations import current
from tinygrad_char.modes import IGNORED, errors, quiet, thread

if TYPE_CHECKING:
    from tinygrad_char.tensor import Tensor


_order = itertools.count()
_accumulating = threading.Lock()  # of a leaf's gradient
_viewing = threading.Lock()  # of a version's views


def _renew() -> None:
    global _accumulating, _viewing
    _accumulating, _viewing = threading.Lock(), threading.Lock()


in_forked_children(_renew)


class Version:
    """Counts the in-place changes of one piece of memory; views share one."""

    __slots__ = ("value", "views")

    def __init__(self) -> None:
        self.value = 0
        self.views: list[weakref.ref[Tensor]] = []  # the tensors with a `View`, while they are held


View = tuple[Any, tuple[tuple[type["Function"], dict[str, Any]], ...]]
"""How a view was taken: of which tensor that is no view, and the operations with their options.

The tensor is None where nothing knows how.
"""
_UNKNOWN: View = (None, ())


class TensorBase:
    """What the tape knows of a tensor: its array, who made it, and where its gradient goes."""

    __slots__ = (
        "__weakref__",
        "_grad",
        "_view",
        "array",
        "backend",
        "derived",
        "grad_buffer",
        "hooks",
        "node",
        "requires_grad",
        "version",
    )

    array: Array
    backend: Backend
    derived: bool  # computed from a result of `grad`, which has no history of its own
    grad_buffer: Any  # the Tensor that becomes `grad`, where an optimizer has given one
    hooks: dict[int, Callable[..., Any]] | None
    node: Function | None
    requires_grad: bool
    version: Version
    _view: View | None
    _grad: Any  # what `grad` gives: a Tensor or None


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
    hooks: dict[int, Callable[..., Any]] | None = None
    retained: Any = None  # a weak reference to the result, where it keeps its gradient
    derived: bool = False  # whether an input is a result of `grad`, or computed from one
    shape: tuple[int, ...]
    dtype: Any
    order: int

    def forward(self, *inputs: Any, **options: Any) -> Array:
        """Return the result's array, and leave in `saved` what backward needs."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward")

    def backward(self, grad: Array) -> Any:
        """Return the gradients of the inputs, one or a tuple, given that of the result."""
        raise NotImplementedError(f"{type(self).__name__} defines no backward")

    def run_forward(self, arrays: Sequence[Any], options: dict[str, Any]) -> Array:
        """Return forward(*arrays, **options), computed as `upcasts` says."""
        self.halves = ()
        if not self.upcasts or not any_half(arrays):
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
        if not self.halves or len(grads) != len(self.halves):
            return grads
        return tuple(
            each if each is None or dtype is None else rounded(each, dtype)
            for each, dtype in zip(grads, self.halves, strict=True)
        )

    @classmethod
    def apply(cls, *inputs: Any, **options: Any) -> Tensor:
        """Run forward on the inputs' arrays, and put it on the tape if a gradient may follow."""
        node = cls()
        arrays = []
        needs = []
        half = derived = False
        first: Any = None
        for each in inputs:
            if isinstance(each, TensorBase):
                array = each.array
                arrays.append(array)
                needs.append(each.requires_grad)
                if array.itemsize == 2:
                    half = True
                if each.derived:
                    derived = True
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
                if getattr(each, "itemsize", 0) == 2:
                    half = True
        if first is None:
            raise TypeError(
                f"{cls.__name__.lower()}: expected at least one tensor, got "
                f"{[type(each).__name__ for each in inputs]}"
            )
        backend = first.backend
        node.backend = backend if current() is None else backend.chosen()  # a call less
        state = thread.state
        taped = state.grad_enabled and True in needs
        node.needs = tuple(needs) if taped else (False,) * len(needs)
        # Before forward: what another thread changes meanwhile may have been read already.
        versions = (
            [(each, each.version.value) for each in inputs if isinstance(each, TensorBase)]
            if taped
            else []
        )
        outermost = node.upcasts and not state.quiet
        if outermost:
            state.quiet, before = True, errors.set(IGNORED)
        try:
            array = node.run_forward(arrays, options) if half else node.forward(*arrays, **options)
        finally:
            if outermost:
                state.quiet = False
                errors.reset(before)
        if type(array) is not first.backend.array_type:
            check_result(cls.__name__, array)
        if state.checking:
            check_finite(cls.__name__, "forward", (array,), arrays)
        result = first._result(array)
        array, source = result.array, first.array
        # Whatever `is_view` says: a user's forward may return an input, or a view of one.
        several = len(arrays) > 1
        shares = array.base is not None or node.is_view or array is source
        if not shares and several:
            shares = array is arrays[-1] or (len(arrays) > 2 and id(array) in map(id, arrays))
        if shares:
            _link_view(node, first, inputs, options, result)
        if taped:
            node._link(inputs, versions, result)
            if derived:
                node.derived = True
        elif derived:
            result.derived = state.grad_enabled
        if state.trace is not None:
            state.trace.add(Operation(node, inputs, options, result))
        return result

    def _link(self, inputs: tuple[Any, ...], versions: list[tuple[Any, int]], result: Any) -> None:
        """Make the result's history: the inputs' edges, and versions of what was saved.

        `versions` are those of the inputs that are tensors, when forward began.
        """
        self.order = next(_order)
        self.edges = list(map(_edge, inputs, self.needs))
        array = result.array
        self.shape, self.dtype = array.shape, array.dtype
        if result.backend.xp is not self.backend.xp:  # moved to another device
            self.backend = result.backend
        if self.saved:
            versions.append((result, result.version.value))
            self.versions = self._saved_versions(versions)
        result.node = self
        result.requires_grad = True

    def _saved_versions(self, versions: list[tuple[Any, int]]) -> list[tuple[Version, int]]:
        """Return of the tensors' versions those whose memory was saved; views share one."""
        found = []
        owners: list[Any] = []
        for saved in self.saved:
            if saved is None:
                continue
            for each, value in versions:
                if each.array is saved:
                    found.append((each.version, value))
                    break
            else:  # made by forward: memory of its own, or a part of a tensor's
                owner = _owner(saved)
                owners = owners or [_owner(each.array) for each, _ in versions]
                for (each, value), other in zip(versions, owners, strict=True):
                    # An owner may be the optimizer's buffer, which its parameters do not share.
                    if other is owner and self.backend.xp.may_share_memory(saved, each.array):
                        found.append((each.version, value))
        return found

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
        if self.derived:
            raise RuntimeError(
                f"backward through {name.lower()}: one of its inputs was computed from a result of "
                "grad(), whose own gradient is not computed and would be missing here; "
                ".detach() that result to take it as a constant"
            )
        grads = self.run_backward(grad)
        if len(grads) != len(edges):
            raise RuntimeError(
                f"backward of {name} returned {len(grads)} gradient(s) for {len(edges)} input(s); "
                "expected a tuple with one for each, None where an input needs none"
            )
        results = []
        for position, edge in enumerate(edges):
            if edge is not None:
                expected = edge if isinstance(edge, Function) else edge.array
                check_gradient(name, expected, grads[position], edge.backend.array_type)
                results.append((edge, grads[position]))
        if thread.state.checking:
            check_finite(name, "backward", [each for _, each in results], (grad, *self.saved))
        if not keep:
            self.saved, self.edges = (), None
        return results


def _edge(value: Any, need: bool) -> Edge:
    return (value.node or value) if need else None


def _viewed(array: Array, inputs: Sequence[Any], backend: Backend) -> Any:
    """Return the first of the inputs with whose memory the array lies; None if there is none."""
    owner = _owner(array)
    for each in inputs:
        if isinstance(each, TensorBase) and (
            each.array is array
            # An owner may be the optimizer's buffer, of which each parameter has a part.
            or (_owner(each.array) is owner and backend.xp.may_share_memory(array, each.array))
        ):
            return each
    return None


def _link_view(
    node: Function, first: Any, inputs: Sequence[Any], options: dict[str, Any], view: Any
) -> None:
    """Let a view, if it is one, share the memory's version, and know of which tensor it is."""
    if len(inputs) > 1:
        first = _viewed(view.array, inputs, first.backend)
        if first is None:
            return
    elif view.array.base is not first.array and _owner(view.array) is not _owner(first.array):
        return
    version = view.version = first.version
    if not thread.state.grad_enabled or len(inputs) > 1:
        view._view = _UNKNOWN
        return
    base, steps = first._view or (first, ())
    view._view = (base, (*steps, (type(node), options)))
    views = version.views
    views.append(weakref.ref(view))
    if len(views) > 2 and not len(views) & (len(views) - 1):  # at each power of two
        with _viewing:  # forget what is gone; others append behind it meanwhile
            count = len(views)
            views[:count] = [each for each in views[:count] if each() is not None]


def _owner(value: Any) -> Any:
    """Return the object that holds the memory behind an array, the same for all views of it."""
    while (base := getattr(value, "base", None)) is not None:
        value = base
    return value


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

    def add(self, operation: Operation) -> None:
        """Take the next one."""
        self.operations.append(operation)

    def note_change(self, tensor: TensorBase) -> None:
        """Take note of a tensor that is changed in place."""
        self.obstacle = "a tensor is changed in place"

    def note_hook(self, name: str) -> None:
        """Take note that the gradient of an operation's result has hooks."""
        self.obstacle = f"a result of {name} has hooks"


TraceType = TypeVar("TraceType", bound=Trace)


@contextlib.contextmanager
def tracing(trace: TraceType | None = None) -> Iterator[TraceType]:
    """List the operations of this thread, on the tape or not, in a trace."""
    before = thread.state.trace
    thread.state.trace = Trace() if trace is None else trace
    try:
        yield thread.state.trace  # type: ignore[misc]
    finally:
        thread.state.trace = before


def note_change(tensor: TensorBase) -> None:
    """Count an in-place change of a tensor's memory; what is repeated would leave it out."""
    tensor.version.value += 1
    if thread.state.trace is not None:
        thread.state.trace.note_change(tensor)


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
            total = grad if before is None else _sum(leaf.backend, before[1], grad)
            self._deferred[id(leaf)] = (leaf, total)
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
        found[id(leaf)] = grad if before is None else _sum(leaf.backend, before, grad)

    _walk((output,), (cotangent,), at_leaf, {}, False)
    totals = [found.get(id(each)) for each in leaves]
    return [
        each if each is None else rounded(each, leaf.array.dtype)
        for each, leaf in zip(totals, leaves, strict=True)
    ]


def _sum(backend: Backend, total: Array, grad: Array) -> Array:
    """Return the sum of two gradients, where they are float16 in float32, to be rounded later."""
    return backend.kernels[add.forward](widened(total), grad)


@quiet
def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Any = None,
    *,
    retain_graph: bool = False,
    allow_unused: bool = False,
    create_graph: bool = False,
) -> list[Any]:
    """Return the gradients of `outputs` by `inputs` and leave every `.grad` alone.

    They are constants: how they were computed is not on the tape. A loss that is computed from one
    while grad mode is on refuses backward, where its gradient would lack that part; take
    `.detach()` of the result, or compute under `no_grad()`, where a constant is meant.

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
    create_graph
        Known from PyTorch, and refused: gradients of gradients are not computed.

    Raises
    ------
    NotImplementedError
        `create_graph` is True.
    RuntimeError
        An output needs no gradient, or an input is not reached.
    ValueError
        There are not as many cotangents as outputs.
    """
    refuse_second_derivatives("grad", create_graph)
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
            found[id(leaf)] = grad if before is None else _sum(leaf.backend, before, grad)

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
        if array is None:
            results.append(None)
            continue
        result = each._result(array.copy())
        result.derived = True
        results.append(result)
    return results


def refuse_second_derivatives(name: str, create_graph: bool) -> None:
    """Raise NotImplementedError where gradients are to have a history of their own."""
    if create_graph:
        raise NotImplementedError(
            f"{name}(create_graph=True): gradients of gradients are not computed here; for a "
            "second derivative take differences of first ones, or write the first as operations"
        )


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
            edge.backend.kernels[add.into](pending[edge], grad, pending[edge])
        else:
            total = _sum(edge.backend, pending[edge], grad)
            pending[edge] = edge.backend.xp.asarray(total)  # which takes additions in place
            owned.add(edge)

    for output, each in zip(outputs, grads, strict=True):
        receive(output.node or output, each)
    while heap and heap[0][0] <= -oldest:
        node = heapq.heappop(heap)[1]
        total = pending.pop(node)
        if total.dtype is not node.dtype:  # also where dtypes are equal, and not one object
            total = rounded(total, node.dtype)
        owned.discard(node)
        if node.hooks:
            if thread.state.trace is not None:
                thread.state.trace.note_hook(type(node).__name__.lower())
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
        held = leaf._grad
        if held is not None:
            leaf.backend.xp.add(held.array, grad, out=held.array)
            held.version.value += 1
        elif leaf.grad_buffer is not None:
            held = leaf._grad = leaf.grad_buffer
            if grad is not held.array:  # where a kernel may have written it at once
                held.array[...] = grad
            held.version.value += 1
        else:
            leaf._grad = leaf._result(leaf.backend.xp.array(grad))


def _run_hooks(hooks: dict[int, Callable[..., Any]] | None, grad: Array, like: Tensor) -> Array:
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
