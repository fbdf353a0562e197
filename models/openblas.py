"""The instruction set of matrix products, where OpenBLAS overlooks the best that there is.

On some processors with AVX-512 OpenBLAS takes its kernels for older ones (Haswell, Zen), which
compute half as many elements by an instruction. Which kernels it takes is settled when NumPy loads
it, by the variable OPENBLAS_CORETYPE if the user has set one.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import threadpoolctl

VARIABLE = "OPENBLAS_CORETYPE"
WIDE = "SkylakeX"
_WITH_AVX512 = {WIDE, "Cooperlake", "SapphireRapids"}
_AVX512 = {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}
_CPUINFO = Path("/proc/cpuinfo")


def better_core_type(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the value of OPENBLAS_CORETYPE that NumPy's products would be faster with, if any.

    None where the user has set one, where the library took AVX-512 kernels by itself or is
    another one, and where the processor has no AVX-512 or does not tell.
    """
    taken = {
        each.get("architecture")
        for each in threadpoolctl.threadpool_info()
        if each["internal_api"] == "openblas"
    }
    if VARIABLE in environment or not taken or taken & _WITH_AVX512 or not _has_avx512():
        return None
    return WIDE


def restart_with_better_core_type() -> None:
    """Begin this program again with the better core type; do nothing where there is none.

    For the first thing that a program does: nothing may have been written or opened yet.
    """
    if (better := better_core_type()) and sys.executable:
        arguments = [sys.executable, *sys.orig_argv[1:]]
        os.execve(sys.executable, arguments, {**os.environ, VARIABLE: better})


def _has_avx512() -> bool:
    try:
        text = _CPUINFO.read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    flags = [line for line in text.splitlines() if line.startswith("flags")]
    return bool(flags) and set(flags[0].split()) >= _AVX512
