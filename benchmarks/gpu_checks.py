"""What the kernels of a CUDA device compute, beside their references in float64.

Sizes are ragged on purpose. A result may be a small multiple of the float32 reference's own error
away from the truth, and a few roundings of its largest element in the precision at hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from tinygrad_char.kernels.backend import Backend, bfloat16, references
from tinygrad_char.kernels.cuda.bench import Check, Ragged
from tinygrad_char.kernels.operations import benches, using

FACTOR, UNITS = 4.0, 6.0
ROUNDING = {"float32": 2.0**-24, "tf32": 2.0**-11, "bf16": 2.0**-8}


class Outcome(NamedTuple):
    """How far a computation was from the truth, and how far it might have been."""

    name: str
    case: str
    precision: str
    error: float
    allowed: float

    @property
    def passed(self) -> bool:
        """Whether the error is finite, and small enough."""
        return self.error <= self.allowed


class _Named:
    def __init__(self, arrays: dict[str, Any]) -> None:
        self.__dict__.update(arrays)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"no input {name!r}: there are {', '.join(self.__dict__)}")


def run(check: Check, precision: str, backend: Backend) -> Outcome:
    """Make a check on a device; the error is infinite where a result is missing or not finite."""
    low = bfloat16() if precision == "bf16" else np.dtype(np.float32)
    rounded = {
        name: each.astype(low) if each.dtype == np.float32 and not name.endswith("_") else each
        for name, each in check.arrays.items()
    }

    def wide(dtype: type) -> _Named:
        return _Named(
            {
                name: each.astype(dtype) if each.dtype in (low, np.float32) else each
                for name, each in rounded.items()
            }
        )

    device = {name: backend.from_numpy(each) for name, each in rounded.items()}
    with using(tf32=precision == "tf32", atomics=check.atomics):
        served = backend.chosen().operation(check.name)
        results = [backend.to_numpy(each) for each in check.compute(served, _Named(device))]
    reference = references().operation(check.name)
    single, truth = (check.compute(reference, wide(t)) for t in (np.float32, np.float64))
    worst, bound = 0.0, 0.0
    for result, rough, exact in zip(results, single, truth, strict=True):
        scale = float(np.abs(exact).max(initial=0)) or 1.0
        error = float(np.abs(result.astype(np.float64) - exact).max(initial=0)) / scale
        own = float(np.abs(np.asarray(rough, np.float64) - exact).max(initial=0)) / scale
        allowed = FACTOR * own + UNITS * ROUNDING[precision]
        if not np.isfinite(error):
            error = np.inf
        if not bound or error / allowed > worst / bound:
            worst, bound = error, allowed
    return Outcome(check.name, check.case, precision, worst, bound)


def checks(quick: bool) -> Iterator[Check]:
    """Yield every check; fewer sizes if `quick`."""
    for each in benches("checks").values():
        yield from each(Ragged(quick))
