"""Linear in C, for contiguous float32 arrays of the host: see reference.py.

Products in bfloat16 are our own on every processor, so that they have the same bits.
"""

from functools import cache
from typing import Any

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu import bfloat16, blas
from tinygrad_char.kernels.cpu.arguments import column_sums, fits, matrix
from tinygrad_char.kernels.cpu.cores import threads_for
from tinygrad_char.kernels.cpu.extension import compiled
from tinygrad_char.kernels.cpu.recording import empty

FEW_ROWS = 4
"""Rows for which a weight is read from memory sooner than a product does it."""
MOST_LANES = 1 << 40  # of vector registers: as wide as there are


def forward(x: Array, weight: Array, bias: Array | None, bf16: bool = False) -> Array:
    # few rows have a kernel of their own
    count = x.size // max(x.shape[-1], 1)
    if count == 0 or weight.size == 0 or not fits(x, weight, bias):
        return NotImplemented
    outputs, inputs = weight.shape
    if count <= FEW_ROWS:
        y = empty((*x.shape[:-1], outputs))
        threads = threads_for(2 * count * weight.size)
        few_rows = _in_bf16().linear_few_rows_bf16 if bf16 else compiled.linear_few_rows
        few_rows(x, weight, bias, y, count, inputs, outputs, threads)
        return y
    if not bf16 and not _has_products():
        return NotImplemented
    y = empty((*x.shape[:-1], outputs))
    _product(x, weight, y, count, outputs, inputs, False, True, bf16)
    if bias is not None:
        compiled.add_rows(y, bias, y, count, outputs, threads_for(y.size))
    return y


def backward(
    grad: Array, x: Array, weight: Array, needs: tuple[bool, bool, bool], bf16: bool = False
) -> tuple[Array | None, Array | None, Array | None]:
    if not grad.size or not fits(grad, x, weight) or not (bf16 or _has_products()):
        return NotImplemented
    need_x, need_weight, need_bias = needs
    count, outputs = matrix(grad)
    grad_x = grad_weight = None
    if need_x:
        inputs = weight.shape[1]
        grad_x = empty((*grad.shape[:-1], inputs))
        _product(grad, weight, grad_x, count, inputs, outputs, False, False, bf16)
    if need_weight:
        inputs = x.shape[-1]
        grad_weight = empty((outputs, inputs))
        _product(grad, x, grad_weight, outputs, inputs, count, True, False, bf16)
    return grad_x, grad_weight, column_sums(grad) if need_bias else None


def _product(
    a: Array,
    b: Array,
    c: Array,
    rows: int,
    columns: int,
    depth: int,
    turn_a: bool,
    turn_b: bool,
    bf16: bool,
) -> None:
    """Write c (rows, columns) = a b, of operands that are turned where they lie transposed."""
    # a tenth, since a product does ten times as many operations in a time as other kernels
    threads = threads_for(2 * rows * columns * depth / 10)
    product = _in_bf16().product_bf16 if bf16 else compiled.product
    product(a, b, c, rows, columns, depth, turn_a, turn_b, False, threads)


def _in_bf16() -> Any:
    bfloat16.has_instruction()  # or none, as the environment says
    return compiled


@cache
def _has_products() -> bool:
    """Return whether products in C are worth it, once they have what BLAS there is.

    Without AVX2 registers and a BLAS that can be called from C, NumPy knows a better one.
    """
    return blas.bind(compiled) or compiled.product_choose_lanes(MOST_LANES) > 4
