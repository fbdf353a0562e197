"""The calls of cuBLAS: executed literally by the stand-in, they must be the products asked for."""

import ctypes
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_char.kernels.backend import DeviceError
from tinygrad_char.kernels.cuda import cublas
from tinygrad_char.kernels.cuda.cublas import COMPUTE_32F, COMPUTE_32F_FAST_TF32, Handles, Products
from tinygrad_char.kernels.cuda.operation import Device, Operation
from tinygrad_char.kernels.cuda_on_cpu.numpy_cublas import INVALID_VALUE, NumpyCublas
from tinygrad_char.kernels.operations import Settings

BF16 = np.dtype(ml_dtypes.bfloat16)


FLOAT = np.dtype(np.float32)
ROUNDING = {FLOAT: 2.0**-24, BF16: 2.0**-8}


class Counting(NumpyCublas):
    """Notes the calls, and whether operands were the arrays themselves."""

    def __init__(self):
        super().__init__(lambda action: action())
        self.calls = []

    def cublasGemmStridedBatchedEx(self, *arguments):  # noqa: N802
        self.calls.append(arguments)
        return super().cublasGemmStridedBatchedEx(*arguments)


def matrices(data, rng, batch, rows, columns, dtype):
    """Draw an array (..., rows, columns): stored by rows or columns, in a larger one, or apart."""
    layout = data.draw(st.sampled_from(["rows", "columns", "part", "apart", "reversed"]))
    shape = tuple(1 if n > 1 and data.draw(st.booleans()) else n for n in batch)
    shape = shape[data.draw(st.integers(0, len(shape))) :]

    def draw(*sizes):
        return rng.standard_normal((*shape, *sizes)).astype(dtype)

    return {
        "rows": lambda: draw(rows, columns),
        "columns": lambda: draw(columns, rows).swapaxes(-1, -2),
        "part": lambda: draw(rows + 1, columns + 2)[..., 1:, 1:-1],
        "apart": lambda: draw(rows, 2 * columns)[..., ::2],
        "reversed": lambda: draw(rows, columns)[..., ::-1, :],
    }[layout]()


def assert_product(actual, a, b, inner, tf32=False):
    """Assert that the error is no larger than rounding the operands, sums and result allows."""
    exact = a.astype(np.float64) @ b.astype(np.float64)
    size = np.abs(a.astype(np.float64)) @ np.abs(b.astype(np.float64))
    allowed = ROUNDING[actual.dtype] * np.abs(exact) + (inner + 2) * 2.0**-24 * size
    if tf32:
        allowed += 2 * 2.0**-11 * size
    assert actual.shape == exact.shape
    assert (np.abs(actual.astype(np.float64) - exact) <= allowed).all()


@settings(deadline=None, max_examples=150)
@given(
    data=st.data(),
    batch=st.lists(st.integers(1, 3), max_size=3),
    sizes=st.tuples(*[st.sampled_from([0, 1, 2, 3, 7, 33])] * 3),
    kinds=st.sampled_from([(FLOAT, FLOAT), (BF16, BF16), (BF16, FLOAT)]),
    tf32=st.booleans(),
)
def test_products_are_numpys(data, batch, sizes, kinds, tf32):
    rows, inner, columns = sizes
    rng = np.random.default_rng(sum(sizes))
    a = matrices(data, rng, batch, rows, inner, kinds[0])
    b = matrices(data, rng, batch, inner, columns, kinds[0])
    products = Products(NumpyCublas(lambda action: action()), lambda: None)
    out = products.multiply(a, b, dtype=kinds[1], tf32=tf32)
    assert out.dtype == kinds[1]
    assert_product(out, a, b, inner, tf32 and kinds[0] == FLOAT)


def test_transposes_batches_and_repetitions_are_not_copied():
    api = Counting()
    products = Products(api, lambda: None)
    x = np.ones((4, 2, 3, 5), np.float32)
    w = np.ones((6, 5), np.float32)
    products.multiply(x, w.T)
    arguments = api.calls[-1]
    assert arguments[3:6] == (6, 3, 5)
    assert arguments[1:3] == (1, 0)
    assert (arguments[7], arguments[9:11]) == (w.ctypes.data, (5, 0))
    assert (arguments[11], arguments[13:15]) == (x.ctypes.data, (5, 15))
    assert arguments[-3] == 8
    products.multiply(x.swapaxes(-1, -2), x)
    assert api.calls[-1][1:3] == (0, 1)
    assert api.calls[-1][7] == api.calls[-1][11] == x.ctypes.data
    heads = np.ones((2, 5, 3, 4), np.float32).transpose(0, 2, 1, 3)  # no common step for (B, H)
    products.multiply(heads, heads.swapaxes(-1, -2))
    assert api.calls[-1][7] != heads.ctypes.data


def test_one_matrix_and_a_batch_are_different_calls():
    names = []

    class Api:
        def __getattr__(self, name):
            names.append(name)
            return lambda *arguments: 0

    products = Products(Api(), lambda: None)
    x = np.ones((2, 3, 3), np.float32)
    products.multiply(x[0], x[1])
    products.multiply(x[:1], x[1:])
    products.multiply(x, x)
    assert names == ["cublasGemmEx", "cublasGemmEx", "cublasGemmStridedBatchedEx"]


def test_tf32_is_asked_for_by_compute_type_alone():
    api = Counting()
    products = Products(api, lambda: None)
    x = np.full((2, 2), 1 + 2.0**-12, np.float32)
    np.testing.assert_array_equal(products.multiply(x, x, tf32=True), 2.0)
    assert api.calls[-1][-2] == COMPUTE_32F_FAST_TF32
    assert (products.multiply(x, x) > 2).all()
    products.multiply(x.astype(BF16), x.astype(BF16), tf32=True)
    assert api.calls[-1][-2] == COMPUTE_32F


def test_a_refused_call_is_an_error_that_names_the_product():
    api = SimpleNamespace(cublasGemmEx=lambda *arguments: 13)
    with pytest.raises(DeviceError, match=r"\(2, 2\) and \(2, 2\) in float32.*EXECUTION_FAILED"):
        Products(api, lambda: None).multiply(*np.ones((2, 2, 2), np.float32))


def test_the_stand_in_refuses_what_cublas_refuses():
    def ask(m=2, lda=2, b_type=0, algorithm=-1):
        buffer = np.zeros(16, np.float32).ctypes.data
        one = ctypes.byref(ctypes.c_float(1))
        return NumpyCublas(lambda action: None).cublasGemmEx(
            *(None, 0, 0, m, 2, 2, one, buffer, 0, lda, buffer, b_type, 2, one),
            *(buffer, 0, 2, COMPUTE_32F, algorithm),
        )

    assert ask() == 0
    assert ask(m=-1) == ask(lda=1) == ask(b_type=14) == ask(algorithm=0) == INVALID_VALUE


def test_the_stand_in_adds_to_what_is_kept():
    a, c = np.full((2, 2), 2, np.float32), np.ones((2, 2), np.float32)
    half, three = (ctypes.byref(ctypes.c_float(value)) for value in (0.5, 3))
    NumpyCublas(lambda action: action()).cublasGemmEx(
        *(None, 0, 0, 2, 2, 2, half, a.ctypes.data, 0, 2, a.ctypes.data, 0, 2, three),
        *(c.ctypes.data, 0, 2, COMPUTE_32F, -1),
    )
    np.testing.assert_array_equal(c, 0.5 * 8 + 3)


class FakeLibrary:
    """Takes note of what a handle is given."""

    def __init__(self):
        self.calls = []

    def cublasCreate_v2(self, handle):  # noqa: N802
        self.calls.append("create")
        handle._obj.value = len(self.calls)
        return 0

    def cublasSetStream_v2(self, handle, stream):  # noqa: N802
        self.calls.append(("stream", handle.value, stream))
        return 0

    def cublasSetWorkspace_v2(self, handle, start, size):  # noqa: N802
        self.calls.append(("workspace", handle.value, size))
        return 0


def test_a_handle_gets_its_stream_and_then_its_workspace_once():
    stream = SimpleNamespace(ptr=5)
    cupy = SimpleNamespace(
        cuda=SimpleNamespace(
            runtime=SimpleNamespace(getDevice=lambda: 0), get_current_stream=lambda: stream
        ),
        empty=np.empty,
    )
    library = FakeLibrary()
    handles = Handles(library, cupy)
    first = handles()
    assert library.calls == ["create", ("stream", 1, 5), ("workspace", 1, cublas.WORKSPACE_BYTES)]
    assert handles() is first
    assert len(library.calls) == 3
    stream.ptr = 6
    assert handles() is not first
    assert library.calls[4] == ("stream", 4, 6)


def test_missing_cublas_says_what_to_install(monkeypatch):
    monkeypatch.setattr(cublas, "_packaged", lambda: "/nowhere/libcublas.so")
    monkeypatch.setattr(cublas, "SONAMES", ("libcublas_that_is_not.so",))
    with pytest.raises(DeviceError, match=r"cuBLAS was not found: pip install.*/nowhere.*that_is"):
        cublas.load_library()


def test_the_library_of_nvidias_packages_comes_first(monkeypatch):
    finder = SimpleNamespace(
        load_nvidia_dynamic_lib=lambda name: SimpleNamespace(abs_path=f"/there/lib{name}.so")
    )
    monkeypatch.setattr(cublas.importlib, "import_module", lambda name: finder)
    functions = ("cublasCreate_v2", "cublasSetStream_v2", "cublasSetWorkspace_v2")
    products = ("cublasGemmEx", "cublasGemmStridedBatchedEx")
    loaded = []

    def load(path):
        loaded.append(path)
        return SimpleNamespace(**{name: SimpleNamespace() for name in (*functions, *products)})

    monkeypatch.setattr(cublas.ctypes, "CDLL", load)
    library = cublas.load_library()
    assert loaded == ["/there/libcublas.so"]
    assert len(library.cublasGemmEx.argtypes) == 19
    assert len(library.cublasGemmStridedBatchedEx.argtypes) == 23


@settings(deadline=None, max_examples=20)
@given(rows=st.sampled_from([0, 1, 31, 33, 1000]), columns=st.sampled_from([1, 65, 129, 384]))
def test_sums_of_biases_are_exact_in_any_shape(launcher, rows, columns):
    grad = np.random.default_rng(rows).integers(-4, 4, (rows, columns)).astype(BF16)
    sums = Operation(Device(launcher, None), Settings()).sum_columns(grad, FLOAT)
    np.testing.assert_array_equal(sums, grad.astype(np.float32).sum(axis=0))


def test_rows_that_lie_further_apart_than_cublas_takes_are_copied():
    assert cublas._leading(5, 1, 3, 2**31 - 1) == 2**31 - 1
    assert cublas._leading(5, 1, 3, 2**31) == 0
