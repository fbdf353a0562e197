"""Which version serves an operation, and that a test of one really runs on each."""

import numpy as np
import pytest

from tinygrad_char.kernels import dropout
from tinygrad_char.kernels.attention import Options, Saved
from tinygrad_char.kernels.backend import CPU, asked_first
from tinygrad_char.kernels.cross_entropy.reference import Saved as SavedLoss
from tinygrad_char.kernels.dropout import DropoutKey, cpu, reference
from tinygrad_char.kernels.layernorm.reference import Saved as SavedNorm
from tinygrad_char.kernels.operations import Settings, operations

RNG = np.random.default_rng(0)


def drawn(*shape, dtype=np.float32):
    return RNG.standard_normal(shape).astype(dtype)


def test_each_version_is_the_one_that_its_name_says(request):
    name = request.node.callspec.params["version"]
    asked = asked_first(dropout.forward)
    assert asked is {"reference": reference.forward, "c": cpu.forward}[name]


def calls(dtype=np.float32):
    """Return arguments by operation and function."""
    rows, row = drawn(3, 5, dtype=dtype), drawn(5, dtype=dtype)
    ones, table = np.ones((3, 1), dtype), np.array([1, 0, 4])
    heads = drawn(1, 2, 3, 4, dtype=dtype)
    options = Options(True, 0.5)
    attended = Saved(*[heads] * 4, np.ones((1, 2, 3, 2), dtype))
    written = tuple(np.zeros_like(heads) for _ in range(3))
    yield "matmul", "forward", (rows, drawn(5, 2, dtype=dtype))
    yield "matmul", "backward", (rows, drawn(3, 4, dtype=dtype), drawn(4, 5), (True, True))
    yield "softmax", "forward", (rows,)
    yield "softmax", "backward", (rows, rows)
    yield "layernorm", "forward", (rows, row, row)
    yield "layernorm", "backward", (rows, SavedNorm(rows, row, ones, ones), (True, True, True))
    yield "attention", "forward", (heads, heads, heads, options)
    yield "attention", "backward", (heads, attended, written, options)
    yield "cross_entropy", "forward", (rows, table)
    yield "cross_entropy", "backward", (row[0], SavedLoss(rows, table, np.ones((3, 2), dtype)))
    yield "embedding", "forward", (table, drawn(5, 2, dtype=dtype))
    yield "embedding", "backward", (rows, table, 6)
    yield "embedding", "backward_addend", (rows, (5,))
    yield "running_mean", "forward", (rows[None],)
    yield "running_mean", "backward", (rows[None],)


LOOPS = [name for name, room in operations().items() if "loops" in room.versions]
CALLS = [(name, function) for name, function, _ in calls()]


def test_all_functions_of_the_loops_are_called_here():
    assert {name for name, _ in CALLS} == set(LOOPS)
    for name in LOOPS:
        loops = vars(operations()[name].module("loops"))
        here = {each for each in ("forward", "backward", "backward_addend") if each in loops}
        assert {function for each, function in CALLS if each == name} == here


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize(("name", "function"), CALLS)
def test_loops_serve_what_numpy_has_on_the_host(name, function, dtype):
    arguments = next(each for *names, each in calls(dtype) if names == [name, function])
    loops = getattr(operations()[name].module("loops"), function)
    assert loops(*arguments) is not NotImplemented
    served = CPU.under(Settings(((name, "loops"),))).operation(name)
    assert asked_first(getattr(served, function)) is loops


class OnDevice(np.ndarray):
    """As the arrays of cuda-on-cpu are."""


@pytest.mark.parametrize("other", ["device", "bfloat16", "longdouble"])
@pytest.mark.parametrize(("name", "function"), CALLS)
def test_loops_leave_other_arrays_to_the_reference(name, function, other):
    if other == "bfloat16":
        convert = lambda each: each.astype(pytest.importorskip("ml_dtypes").bfloat16)  # noqa: E731
    elif other == "device":
        convert = lambda each: each.view(OnDevice)  # noqa: E731
    else:
        convert = lambda each: each.astype(np.longdouble)  # noqa: E731
    arguments = next(each for *names, each in calls() if names == [name, function])

    def converted(argument):
        if isinstance(argument, tuple) and hasattr(argument, "_fields"):
            return type(argument)(*map(converted, argument))
        isfloat = isinstance(argument, np.ndarray) and argument.dtype.kind == "f"
        return convert(argument) if isfloat else argument

    given = map(converted, arguments)
    assert getattr(operations()[name].module("loops"), function)(*given) is NotImplemented


def test_loops_of_attention_leave_dropout_to_the_reference():
    loops = operations()["attention"].module("loops")
    heads = drawn(1, 2, 3, 4)
    options = Options(True, 0.5, 0.1, DropoutKey(1, 2))
    assert loops.forward(heads, heads, heads, options) is NotImplemented
    saved = Saved(*[heads] * 4, drawn(1, 2, 3, 2))
    assert loops.backward(heads, saved, (heads, heads, heads), options) is NotImplemented


def test_where_python_raises_the_reference_answers_as_ieee_arithmetic_does():
    served = CPU.under(Settings((("layernorm", "loops"),))).operation("layernorm")
    with np.errstate(all="ignore"):
        y, _, rstd = served.forward(np.ones((1, 3)), None, None, 0.0)
    assert np.isinf(rstd).all()
    assert np.isnan(y).all()
