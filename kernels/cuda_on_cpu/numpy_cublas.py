"""A stand-in for cuBLAS on the CPU: executes the arguments of its calls literally, with NumPy.

It knows nothing of arrays: like cuBLAS it gets addresses, leading dimensions and strides, so that
a wrong one gives a wrong result, or is refused as cuBLAS refuses it.
"""

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from tinygrad_char.kernels.cuda.cublas import COMPUTE_32F, COMPUTE_32F_FAST_TF32, DEFAULT_ALGORITHM
from tinygrad_char.kernels.matmul import product

INVALID_VALUE = 7
_BFLOAT16 = 14


class NumpyCublas:
    """The two functions for products, by the names that they have in the library.

    `perform` is given what is to be done once the arguments were found valid.
    """

    def __init__(self, perform: Callable[[Callable[[], None]], None]) -> None:
        self._perform = perform

    def cublasGemmEx(self, *arguments: Any) -> int:  # noqa: N802 (the library's name)
        """Compute C = alpha op(A) op(B) + beta C and return a status: a batch of one product."""
        *begin, a, a_type, lda, b, b_type, ldb, beta, c, c_type, ldc, compute, algorithm = arguments
        operands = a, a_type, lda, 0, b, b_type, ldb, 0, beta, c, c_type, ldc, 0
        batch: list[Any] = [*begin, *operands, 1, compute, algorithm]
        return self.cublasGemmStridedBatchedEx(*batch)

    def cublasGemmStridedBatchedEx(  # noqa: N802
        self,
        handle: Any,
        transpose_a: int,
        transpose_b: int,
        m: int,
        n: int,
        k: int,
        alpha: Any,
        a: int,
        a_type: int,
        lda: int,
        stride_a: int,
        b: int,
        b_type: int,
        ldb: int,
        stride_b: int,
        beta: Any,
        c: int,
        c_type: int,
        ldc: int,
        stride_c: int,
        count: int,
        compute_type: int,
        algorithm: int,
    ) -> int:
        """Compute C_i = alpha op(A_i) op(B_i) + beta C_i, matrix by matrix; return a status."""
        shape_a = (k, m) if transpose_a else (m, k)
        shape_b = (n, k) if transpose_b else (k, n)
        if (
            min(m, n, k, count) < 0
            or lda < max(1, shape_a[0])
            or ldb < max(1, shape_b[0])
            or ldc < max(1, m)
            or a_type != b_type
            or (a_type, c_type) not in ((0, 0), (_BFLOAT16, 0), (_BFLOAT16, _BFLOAT16))
            or compute_type not in (COMPUTE_32F, COMPUTE_32F_FAST_TF32)
            or algorithm != DEFAULT_ALGORITHM
        ):
            return INVALID_VALUE
        fast = compute_type == COMPUTE_32F_FAST_TF32
        factor, keep = alpha._obj.value, beta._obj.value

        def compute() -> None:
            for i in range(count):
                left = _read(_matrix(a, a_type, i * stride_a, lda, shape_a), fast)
                right = _read(_matrix(b, b_type, i * stride_b, ldb, shape_b), fast)
                result = product(left.T if transpose_a else left, right.T if transpose_b else right)
                target = _matrix(c, c_type, i * stride_c, ldc, (m, n))
                result *= np.float32(factor)
                if keep:
                    result += np.float32(keep) * target.astype(np.float32)
                target[...] = result.astype(target.dtype)

        self._perform(compute)
        return 0


def _matrix(start: int, kind: int, offset: int, leading: int, shape: tuple[int, int]) -> np.ndarray:
    """Return a matrix that is stored by columns, as a view of the memory at an address."""
    rows, columns = shape
    dtype = np.dtype(np.float32) if kind == 0 else _bfloat16()
    size = dtype.itemsize
    count = (columns - 1) * leading + rows
    memory = (ctypes.c_char * (count * size)).from_address(start + offset * size)
    flat = np.frombuffer(memory, dtype)  # type: ignore[call-overload]
    return np.lib.stride_tricks.as_strided(flat, shape, (size, leading * size))


def _bfloat16() -> np.dtype:
    return np.dtype("bfloat16")


def _read(matrix: np.ndarray, fast: bool) -> np.ndarray:
    """Return the elements as a product takes them: float32, rounded to TF32 where it is fast."""
    if matrix.dtype != np.float32:
        return matrix.astype(np.float32)
    if not fast:
        return matrix
    bits = np.ascontiguousarray(matrix).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)
