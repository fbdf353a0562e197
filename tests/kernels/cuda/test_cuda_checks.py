"""What each operation checks on a device (its bench.py), on the CPU with every access checked."""

from itertools import islice

import numpy as np
import pytest

from tinygrad_char.benchmarks.gpu_checks import run
from tinygrad_char.kernels.cuda.backend import assemble
from tinygrad_char.kernels.cuda.bench import Ragged
from tinygrad_char.kernels.operations import benches, operations

MOST = 6  # checks of an operation, in each precision


@pytest.mark.parametrize(
    "name", [name for name, room in operations().items() if "cuda" in room.versions]
)
def test_check_mode_finds_nothing_and_results_are_right(name, checking_launcher, products):
    backend = assemble("kernels", np, np.ndarray, checking_launcher, products, None)
    for check in islice(benches("checks")[name](Ragged(quick=True)), MOST):
        for precision in check.precisions:
            outcome = run(check, precision, backend)
            assert outcome.passed, outcome
