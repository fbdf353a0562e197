"""What the operations that run CUDA kernels share: how they build launches."""

from __future__ import annotations

from functools import cache
from math import prod
from typing import Any, ClassVar, NamedTuple

import numpy as np

from tinygrad_char.kernels.array import Array, address, namespace
from tinygrad_char.kernels.cuda.cublas import Products
from tinygrad_char.kernels.cuda.launcher import Kernel, Launch, Launcher
from tinygrad_char.kernels.operations import Room, Settings

SCALARS = {"float32": "float", "bfloat16": "__nv_bfloat16"}
"""The dtypes that kernels serve, and what CUDA C calls them."""

ACCESS_BYTES = 16
"""The most that one instruction moves."""

ROW_BLOCK = 256
"""Threads of a block of the kernels that work by rows: eight warps."""

TILE_ROWS, TILE_COLUMNS = 64, 128
"""The part of a matrix that a block of the kernels that add up columns has: columns.cuh."""

MOST_ROWS, MOST_COLUMNS = 2**31 - TILE_ROWS, 65535 * TILE_COLUMNS
"""What a number of 32 bits, and the second axis of a grid, can count."""

WARP_COLUMNS = 1024
"""Rows up to this long are one warp's; longer ones are shared by the warps of a block."""

_kernel = cache(Kernel)


class Device(NamedTuple):
    """What computes on a device: a launcher of kernels, and matrix products."""

    launcher: Launcher
    products: Products


class Operation:
    """The version of an operation that launches CUDA kernels; the arrays say on which device.

    There is one subclass in the module `cuda` of an operation's folder, with the functions of the
    reference.
    """

    _classes: ClassVar[dict[str, type[Operation]]] = {}
    _room: ClassVar[str]

    def __init__(self, device: Device, settings: Settings) -> None:
        self.device, self.settings = device, settings

    def __init_subclass__(cls) -> None:
        cls._classes[cls.__module__] = cls
        cls._room = cls.__module__.split(".")[-2]

    @classmethod
    def of(cls, room: Room) -> type[Operation]:
        """Return the subclass in a room's cuda.py, which is imported for that."""
        return cls._classes[room.module("cuda").__name__]

    def launch(
        self,
        function: str,
        grid: tuple[int, ...],
        threads: int,
        *arguments: Any,
        source: str | None = None,
        shared_bytes: int = 0,
        **defines: int | str,
    ) -> None:
        """Run a kernel with these macros, on blocks of one dimension.

        It stands in `source`.cu, which is the file of the operation's own name if none is given.
        """
        macros = tuple((name, str(value)) for name, value in sorted(defines.items()))
        kernel = _kernel(source or self._room, function, macros)
        self.device.launcher.run(Launch(kernel, grid, (threads,), arguments, shared_bytes))

    def launch_tiles(
        self, function: str, x: Array, arrays: tuple[Array | None, ...], *rest: Any, **defines: Any
    ) -> None:
        """Run a kernel of (*arrays, rows, columns, *rest) on the tiles of x: columns.cuh."""
        rows, columns = by_rows(x)
        self.launch(
            function,
            tile_grid(rows, columns),
            ROW_BLOCK,
            *arrays,
            *(np.int32(rows), np.int32(columns)),
            *rest,
            SCALAR=SCALARS[x.dtype.name],
            **defines,
        )

    def launch_rows(
        self,
        function: str,
        x: Array,
        arrays: tuple[Array | None, ...],
        *rest: Any,
        beside: tuple[Array | None, ...] = (),
        most_blocks: int | None = None,
        shared_bytes: int = 0,
    ) -> None:
        """Run a kernel of (*arrays, *rest) on the rows of x and of what lies beside it: row.cuh."""
        blocks = row_plan(*by_rows(x))[1]
        self.launch(
            function,
            (blocks if most_blocks is None else min(blocks, most_blocks),),
            ROW_BLOCK,
            *arrays,
            *rest,
            shared_bytes=shared_bytes,
            **row_macros(x, *beside),
        )

    def sum_columns(self, matrix: Array, dtype: np.dtype) -> Array:
        """Return the sum of a contiguous matrix (rows, columns) over its rows."""
        partial = self.column_parts(matrix)
        self.launch_tiles("column_parts", matrix, (matrix, partial), source="column_sum")
        return self.sum_rows(partial, partial.shape[1:], dtype)

    @staticmethod
    def column_parts(x: Array) -> Array:
        """Return memory for the sums of the columns of each row of tiles: see `sum_parts`."""
        return namespace(x).empty((tile_grid(*by_rows(x))[0], x.shape[-1]), np.float32)

    def sum_parts(self, partial: Array | None) -> Array | None:
        """Return the sums of what `column_parts` gave the memory for, if anything."""
        return None if partial is None else self.sum_rows(partial, partial.shape[1:], partial.dtype)

    def sum_rows(
        self,
        partial: Array,
        shape: tuple[int, ...],
        dtype: np.dtype,
        out: Array | None = None,
    ) -> Array:
        """Return the sum of partial (rows, ...) over its first axis, as an array of `shape`.

        Where that has fewer elements than a row, the row's first are meant. The sum is written to
        `out`, if given.
        """
        sums = namespace(partial).empty(shape, dtype) if out is None else out
        self.launch(
            "column_sum",
            (-(-sums.size // 32),),
            1024,
            *(partial, sums, np.int32(len(partial))),
            *map(np.int64, (sums.size, prod(partial.shape[1:]))),
            source="column_sum",
            SCALAR=SCALARS[dtype.name],
        )
        return sums


def serves(*arrays: Array | None) -> bool:
    """Return whether the kernels serve arrays of these dtypes, which must be the same."""
    names = {each.dtype.name for each in arrays if each is not None}
    return len(names) == 1 and names <= SCALARS.keys()


def serves_with(weights: Array, *arrays: Array) -> bool:
    """Return whether the kernels serve these arrays, the first not empty, with these weights."""
    return serves(*arrays) and is_single(weights) and arrays[0].size > 0


def is_single(*arrays: Array | None) -> bool:
    """Return whether these are contiguous float32 arrays, or None."""
    return all(
        each is None or (each.dtype == np.float32 and each.flags.c_contiguous) for each in arrays
    )


def tile_grid(rows: int, columns: int) -> tuple[int, int]:
    """Return the blocks of the kernels that work on tiles of a matrix: columns.cuh."""
    return -(-rows // TILE_ROWS), -(-columns // TILE_COLUMNS)


def fits_tiles(x: Array) -> bool:
    """Return whether an array, seen as a matrix, is not too large for such a grid."""
    return x.ndim > 0 and x.shape[-1] <= MOST_COLUMNS and by_rows(x)[0] <= MOST_ROWS


def contiguous(array: Array) -> Array:
    """Return the array, or a contiguous copy where it is a view that kernels cannot read."""
    return array if array.flags.c_contiguous else namespace(array).ascontiguousarray(array)


def vector_width(columns: int, *arrays: Array | None) -> int:
    """Return how many elements kernels can move at a time in rows of these arrays: 4 or 8, or 1.

    The first array's dtype decides how many are sixteen bytes.
    """
    first = arrays[0]
    width = ACCESS_BYTES // first.dtype.itemsize  # type: ignore[union-attr]
    fits = all(each is None or address(each) % ACCESS_BYTES == 0 for each in arrays)
    return width if columns % width == 0 and fits else 1


def access_macros(columns: int, x: Array, *others: Array | None) -> dict[str, Any]:
    """Return the macros of kernels that move rows of so many elements, of x and of the others."""
    return {"SCALAR": SCALARS[x.dtype.name], "VECTOR": vector_width(columns, x, *others)}


def row_plan(rows: int, columns: int) -> tuple[int, int]:
    """Return how many warps share a row, and how many blocks that makes."""
    warps = 1 if columns <= WARP_COLUMNS else ROW_BLOCK // 32
    return warps, -(-rows * warps // (ROW_BLOCK // 32))


def row_macros(x: Array, *others: Array | None) -> dict[str, Any]:
    """Return the macros of kernels that work by rows of x, and of the others that lie beside it."""
    return {**access_macros(x.shape[-1], x, *others), "WARPS": row_plan(*by_rows(x))[0]}


def by_rows(array: Array) -> tuple[int, int]:
    """Return the number of rows and their length, for an array seen as a matrix."""
    return prod(array.shape[:-1]), array.shape[-1]
