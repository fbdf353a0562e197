"""Muon in float32: products by cuBLAS, one for all matrices, and the rest in CUDA C."""

from types import NotImplementedType

import numpy as np

from tinygrad_char.kernels.array import Array, namespace
from tinygrad_char.kernels.cuda.operation import Operation, contiguous
from tinygrad_char.kernels.muon.reference import COEFFICIENTS, Matrices, Rates, Rule, stretch

THREADS = 256
MOST_PARTS = 64


class Muon(Operation):
    def orthogonalize(self, x: Array, ns_steps: int) -> Array:
        if x.dtype != np.float32:
            return NotImplemented
        if not x.size:
            return x.copy()
        count, rows, columns = x.shape
        starts = namespace(x).arange(count, dtype=np.int64) * (rows * columns)
        every, plain = Matrices(starts, (rows, columns)), Rule(0.0, False, ns_steps)
        return self._near_one(contiguous(x), None, every, plain, 1.0, None)

    def update(
        self,
        parameter: Array,
        grad: Array,
        exp_avg: Array,
        matrices: Matrices,
        rule: Rule,
        rates: Rates,
    ) -> NotImplementedType | None:
        if any(each.dtype != np.float32 for each in (parameter, grad, exp_avg)):
            return NotImplemented
        x = self._near_one(grad, exp_avg, matrices, rule, rates.grad_scale, None)
        self._apply(parameter, x, matrices, rates, None)
        return None

    def update_recorded(
        self,
        parameter: Array,
        grad: Array,
        exp_avg: Array,
        matrices: Matrices,
        rule: Rule,
        factors: Array,
    ) -> None:
        x = self._near_one(grad, exp_avg, matrices, rule, 1.0, factors)
        self._apply(parameter, x, matrices, Rates(0.0), factors)

    def _near_one(
        self,
        grad: Array,
        exp_avg: Array | None,
        matrices: Matrices,
        rule: Rule,
        grad_scale: float,
        factors: Array | None,
    ) -> Array:
        """Update exp_avg, and return the matrices that follow from it, orthogonalized."""
        xp, (starts, (rows, columns)) = namespace(grad), matrices
        size = np.int64(rows * columns)
        x = xp.empty((len(starts), rows, columns), np.float32)
        grid = _grid(x)
        partial = xp.empty(grid, np.float64)
        self.launch(
            "muon_direction",
            grid,
            THREADS,
            *(grad, exp_avg, starts, size, x, partial),
            *map(np.float32, (grad_scale, rule.momentum)),
            *(np.int32(rule.nesterov), factors),
        )
        self.launch("muon_normalize", grid, THREADS, x, size, partial)
        total = self._all_factors(x, rule.ns_steps)
        return self._product(x, total) if rows >= columns else self._product(total, x)

    def _all_factors(self, x: Array, ns_steps: int) -> Array:
        """Return the product of the polynomials of all steps, (N, r, r)."""
        turned = x.swapaxes(1, 2)
        first = x.shape[1] < x.shape[2]
        gram = self._product(x, turned) if first else self._product(turned, x)
        total = None
        for number, (a, b, c) in enumerate(COEFFICIENTS[ns_steps], start=1):
            factor = self._product(gram, gram)
            rows = np.int32(len(gram[0]))
            self.launch(
                "muon_polynomial",
                _grid(gram),
                THREADS,
                *(gram, factor, rows, *map(np.float32, (a, b, c))),
            )
            if number < ns_steps:
                gram = self._product(self._product(gram, factor), factor)
            total = factor if total is None else self._product(total, factor)
        assert total is not None
        return total

    def _product(self, a: Array, b: Array) -> Array:
        # never of operands that are rounded: errors of G are larger beside its small eigenvalues
        return self.device.products.multiply(a, b)

    def _apply(
        self,
        parameter: Array,
        x: Array,
        matrices: Matrices,
        rates: Rates,
        factors: Array | None,
    ) -> None:
        starts, shape = matrices
        decay = 1 - rates.lr * rates.weight_decay
        self.launch(
            "muon_apply",
            _grid(x),
            THREADS,
            *(parameter, x, starts, np.int64(shape[0] * shape[1])),
            *map(np.float32, (decay, rates.lr, stretch(shape))),
            factors,
        )


def _grid(x: Array) -> tuple[int, int]:
    """Return the number of matrices, and of the parts that the blocks of threads have of each."""
    count, rows, columns = x.shape
    return count, min(-(-rows * columns // (16 * THREADS)), MOST_PARTS)
