"""The precision of products: what `auto` is on this machine, and what the machine lacks."""

from __future__ import annotations

import os
from dataclasses import replace

from tinygrad_char.kernels.backend import CPU, DeviceError, bfloat16
from tinygrad_char.kernels.cpu.bfloat16 import VARIABLE, has_instruction
from tinygrad_char.kernels.cpu.extension import compiled
from tinygrad_char.kernels.devices import get_backend
from tinygrad_char.models.config import Precision, TrainConfig
from tinygrad_char.models.errors import UsageError

FIRST_WITH_BF16 = 8
"""The major number of the compute capability of the first GPUs that multiply in bfloat16."""


def resolved(config: TrainConfig) -> TrainConfig:
    """Return the settings with what `auto` is here: bf16 where the device is fast at it."""
    if config.precision != "auto":
        return config
    precision: Precision = "bf16" if _is_fast(config.device) else "float32"
    return replace(config, precision=precision)


def check_precision(config: TrainConfig, before: TrainConfig | None = None) -> None:
    """Refuse to begin in bf16 on a processor that would have to emulate it.

    What was begun elsewhere, by the settings of `before`, may go on: to the same digits where there
    are kernels in C.

    Raises
    ------
    UsageError
        The run would begin so; the message says what to do instead.
    """
    if emulates(config) and (before is None or not on_host(before)):
        raise UsageError(
            f"precision is bf16, but {_why_not()}: products would be emulated, many times as "
            "slowly. Use --precision float32, or auto, which is bf16 where that is fast"
        )


def emulates(config: TrainConfig) -> bool:
    """Return whether these settings ask for products that this processor has no instruction for."""
    return on_host(config) and not has_instruction()


def on_host(config: TrainConfig) -> bool:
    """Return whether operands of products on the CPU are rounded to bfloat16."""
    return config.precision == "bf16" and config.device == "cpu"


def describe_emulation() -> str:
    """Say that products are emulated, and what of it."""
    if compiled is None:
        return f"products in bfloat16 are NumPy's, slow and equal to rounding alone: {_why_not()}"
    return f"products in bfloat16 are emulated, slowly and to the same digits: {_why_not()}"


def describe_instruction() -> str:
    """Say what `--precision bf16` means on this processor."""
    return "products by AVX512_BF16" if has_instruction() else f"none on the CPU: {_why_not()}"


def _why_not() -> str:
    if compiled is None:
        return "the kernels in C are not built"
    if os.environ.get(VARIABLE) == "emulated":
        return f"{VARIABLE}=emulated in the environment"
    return "this processor has no AVX512_BF16"


def _is_fast(device: str) -> bool:
    if device == "cpu":
        return has_instruction() and CPU.chosen().version_of("linear") == "c"
    if device != "cuda":
        return False
    try:
        bfloat16()
    except DeviceError:
        return False
    properties = get_backend(device).xp.cuda.runtime.getDeviceProperties(0)
    return int(properties["major"]) >= FIRST_WITH_BF16
