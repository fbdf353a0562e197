"""Every operation against PyTorch, forward and backward."""

import numpy as np
import pytest
from op_cases import CASES, check_parity, operations, recorded

torch = pytest.importorskip("torch", reason="parity needs PyTorch: pip install torch")


DTYPES = (np.float32, np.float64)


@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_agrees_with_pytorch(case, dtype):
    check_parity(torch, case, dtype)


def test_every_operation_is_compared():
    with recorded() as seen:
        for case in CASES:
            for dtype in DTYPES:
                check_parity(torch, case, dtype)
    missing = {each.__name__ for each in operations() - seen}
    assert not missing, f"no parity check for {missing}: add a case to op_cases.py"
