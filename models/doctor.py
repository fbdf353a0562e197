"""What this installation runs on."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

import numpy as np
import threadpoolctl

from tinygrad_char import __version__
from tinygrad_char.kernels.backend import CPU, DeviceError, status
from tinygrad_char.kernels.cpu.cores import available_cores
from tinygrad_char.kernels.devices import get_backend
from tinygrad_char.models.corpus import corpus_status
from tinygrad_char.models.openblas import VARIABLE, better_core_type
from tinygrad_char.models.precision import describe_instruction
from tinygrad_char.step import describe_step

SHOWN = ("numpy", "cupy-cuda13x", "cupy-cuda12x", "torch")


def examine() -> dict[str, Any]:
    """Return the findings by name, in words."""
    return {
        "tinygrad_char": __version__,
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        **{name: _version(name) for name in SHOWN},
        "processors": available_cores(),
        "matrix_products": _describe_blas(),
        "kernels": status(),
        "bfloat16": describe_instruction(),
        "steps": describe_step(CPU),
        "gpu": _describe_gpu(),
        "corpus": corpus_status(),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _describe_blas() -> str:
    np.ones((2, 2)) @ np.ones((2, 2))  # so that the library is loaded
    found = [
        f"{each['internal_api']} {each.get('version', '')} for {each.get('architecture', '?')}, "
        f"{each['num_threads']} thread{'' if each['num_threads'] == 1 else 's'}"
        for each in threadpoolctl.threadpool_info()
        if each["user_api"] == "blas"
    ]
    if better := better_core_type():
        found.append(f"faster with {VARIABLE}={better}, which train and evaluate set themselves")
    return "; ".join(found) or "a library that does not tell its name"


def _describe_gpu() -> str:
    try:
        backend = get_backend("cuda")
    except DeviceError as error:
        return str(error)
    properties = backend.xp.cuda.runtime.getDeviceProperties(0)
    return f"{properties['name'].decode()}, {properties['totalGlobalMem'] >> 30} GiB"
