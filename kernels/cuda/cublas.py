"""Matrix products by cuBLAS, through a handle of our own.

CuPy's handle refuses to work while a stream is captured, and its batched products do not take
bfloat16. Ours has its stream and its workspace from the beginning, so that a product neither
allocates nor waits; so it can be recorded in a graph.

cuBLAS stores matrices by columns. A product C = A B of matrices stored by rows is asked for as
C^T = B^T A^T: the same memory, read by columns.
"""

import ctypes
import importlib
from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from tinygrad_char.kernels.array import Array, address, namespace
from tinygrad_char.kernels.backend import DeviceError
from tinygrad_char.kernels.words import how_to_install

REAL_TYPES = {"float32": 0, "bfloat16": 14}
"""cudaDataType of the dtypes that are served."""

COMPUTE_32F, COMPUTE_32F_FAST_TF32 = 68, 77
DEFAULT_ALGORITHM = -1
WORKSPACE_BYTES = 32 << 20
"""What NVIDIA recommends for Hopper; less may make products slower, not wrong."""

STATUS = {
    1: "NOT_INITIALIZED",
    3: "ALLOC_FAILED",
    7: "INVALID_VALUE",
    8: "ARCH_MISMATCH",
    11: "MAPPING_ERROR",
    13: "EXECUTION_FAILED",
    14: "INTERNAL_ERROR",
    15: "NOT_SUPPORTED",
}
SONAMES = ("libcublas.so.13", "libcublas.so.12", "cublas64_13.dll", "cublas64_12.dll")
_MOST = 2**31 - 1


class Products:
    """Products of matrices that are stored by rows, in batches, transposed or not, without copies.

    `api` has the functions of the library; `handle` returns the handle to call them with.
    """

    def __init__(self, api: Any, handle: Callable[[], Any]) -> None:
        self.api, self._handle = api, handle

    @staticmethod
    def serves(a: Array, b: Array) -> bool:
        """Return whether cuBLAS multiplies these: both float32, or both bfloat16."""
        return a.dtype == b.dtype and a.dtype.name in REAL_TYPES

    def multiply(
        self,
        a: Array,
        b: Array,
        *,
        dtype: Any = None,
        tf32: bool = False,
        out: Array | None = None,
    ) -> Array:
        """Return a @ b: (..., M, K) @ (..., K, N), batch axes broadcast, sums in float32.

        `dtype` is the result's, by default the operands'; bfloat16 operands can give float32.
        With `tf32`, float32 operands are rounded to ten bits after the point. The result is
        written to `out`, a contiguous array of its shape and dtype, if given.
        """
        xp = namespace(a)
        batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        rows, inner = a.shape[-2:]
        columns = b.shape[-1]
        if out is None:
            out = xp.empty((*batch, rows, columns), a.dtype if dtype is None else dtype)
        count = prod(batch)
        if not out.size:
            return out
        if not inner:
            out[...] = 0
            return out
        for size in (rows, inner, columns, count):
            if size > _MOST:
                raise DeviceError(
                    f"a product of {a.shape} and {b.shape}: cuBLAS takes sizes up to {_MOST}"
                )
        first, second = _operand(b, batch), _operand(a, batch)
        fast = tf32 and a.dtype == np.float32
        common = (COMPUTE_32F_FAST_TF32 if fast else COMPUTE_32F, DEFAULT_ALGORITHM)
        sizes = (self._handle(), first.transposed, second.transposed, columns, rows, inner)
        one, zero = ctypes.c_float(1), ctypes.c_float(0)
        kind = REAL_TYPES[out.dtype.name]
        if count == 1:
            status = self.api.cublasGemmEx(
                *(*sizes, ctypes.byref(one)),
                *(first.address, first.kind, first.leading),
                *(second.address, second.kind, second.leading),
                *(ctypes.byref(zero), address(out), kind, columns),
                *common,
            )
        else:
            status = self.api.cublasGemmStridedBatchedEx(
                *(*sizes, ctypes.byref(one)),
                *(first.address, first.kind, first.leading, first.stride),
                *(second.address, second.kind, second.leading, second.stride),
                *(ctypes.byref(zero), address(out), kind, columns, rows * columns),
                count,
                *common,
            )
        check(status, f"a product of {a.shape} and {b.shape} in {a.dtype.name}")
        return out


class _Operand(NamedTuple):
    """A batch of matrices as cuBLAS is told of it."""

    array: Array  # whose memory it is
    transposed: int
    leading: int
    stride: int

    @property
    def address(self) -> int:
        return address(self.array)

    @property
    def kind(self) -> int:
        return REAL_TYPES[self.array.dtype.name]


def _operand(x: Array, batch: tuple[int, ...]) -> _Operand:
    """Return x (..., M, N), repeated over `batch`, as an operand; copied if it has to be."""
    xp = namespace(x)
    repeated = xp.broadcast_to(x, (*batch, *x.shape[-2:]))
    return _view(repeated) or _view(xp.ascontiguousarray(repeated))  # type: ignore[return-value]


def _view(array: Array) -> _Operand | None:
    """Return an array as an operand that shares its memory; None if its steps do not fit."""
    *steps, down, across = (stride // array.itemsize for stride in array.strides)
    *lengths, rows, columns = array.shape
    stride = _common_step(lengths, steps)
    by_rows = _leading(columns, across, rows, down)
    by_columns = _leading(rows, down, columns, across)
    if stride is None or not (by_rows or by_columns):
        return None
    return _Operand(array, int(not by_rows), by_rows or by_columns, stride)


def _leading(length: int, step: int, count: int, distance: int) -> int:
    """Return the stride of `count` runs of `length` elements, 0 if these are apart.

    Or if cuBLAS does not take such a distance.
    """
    if count == 1:
        distance = length
    fits = length <= distance <= _MOST
    return distance if (step == 1 or length == 1) and fits else 0


def _common_step(lengths: Sequence[int], steps: Sequence[int]) -> int | None:
    """Return the step with which several axes can be walked as one; None if there is none."""
    common, size = 0, 1
    for length, step in zip(reversed(lengths), reversed(steps), strict=True):
        if length == 1:
            continue
        if size == 1:
            common = step
        elif step != common * size:
            return None
        size *= length
    return common if common >= 0 else None


def check(status: int, what: str) -> None:
    """Raise DeviceError that names `what` unless the status says that all went well."""
    if status:
        raise DeviceError(f"cuBLAS: {what} failed with {STATUS.get(status, f'status {status}')}")


class Handles:
    """A handle for each device and stream, made when first asked for and kept.

    `cupy` is the module. A stream that is to be captured has to have its handle before.
    """

    def __init__(self, api: Any, cupy: Any) -> None:
        self._api, self._cupy = api, cupy
        self._known: dict[tuple[int, int], tuple[ctypes.c_void_p, Array]] = {}

    def __call__(self) -> ctypes.c_void_p:
        """Return the handle of the current device and stream."""
        cuda = self._cupy.cuda
        key = (cuda.runtime.getDevice(), cuda.get_current_stream().ptr)
        if key not in self._known:
            handle = ctypes.c_void_p()
            check(self._api.cublasCreate_v2(ctypes.byref(handle)), "making a handle")
            check(self._api.cublasSetStream_v2(handle, key[1]), "setting the stream")
            workspace = self._cupy.empty(WORKSPACE_BYTES, np.uint8)
            check(
                self._api.cublasSetWorkspace_v2(handle, address(workspace), WORKSPACE_BYTES),
                "setting the workspace",
            )
            self._known[key] = (handle, workspace)
        return self._known[key][0]


def load_library() -> ctypes.CDLL:
    """Return cuBLAS: the one that NVIDIA's packages brought, or the system's.

    Raises
    ------
    DeviceError
        There is none.
    """
    tried = []
    for path in (_packaged(), *SONAMES):
        if path is None:
            continue
        try:
            library = ctypes.CDLL(path)
        except OSError as error:
            tried.append(str(error))
            continue
        _declare(library)
        return library
    raise DeviceError(
        f"cuBLAS was not found: {how_to_install('cuda13')} (or [cuda12]) brings it, as does "
        f"NVIDIA's toolkit; tried {'; '.join(tried)}"
    )


def _packaged() -> str | None:
    """Return where NVIDIA's packages have cuBLAS, if they are installed."""
    try:
        finder = importlib.import_module("cuda.pathfinder")
        return finder.load_nvidia_dynamic_lib("cublas").abs_path
    except (ImportError, RuntimeError, OSError):
        return None


def _declare(library: Any) -> None:
    """Tell ctypes what the functions take."""
    pointer, number, long = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong
    head = [pointer, *[number] * 5, pointer]
    matrix = [pointer, number, number]
    library.cublasCreate_v2.argtypes = [pointer]
    library.cublasSetStream_v2.argtypes = [pointer, pointer]
    library.cublasSetWorkspace_v2.argtypes = [pointer, pointer, ctypes.c_size_t]
    library.cublasGemmEx.argtypes = [
        *(*head, *matrix, *matrix, pointer, *matrix),
        *(number, number),
    ]
    strided = [*matrix, long]
    library.cublasGemmStridedBatchedEx.argtypes = [
        *(*head, *strided, *strided, pointer, *strided),
        *(number, number, number),
    ]
