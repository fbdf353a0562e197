"""How much memory there is and a run needs, and how the C library hands it back."""

import ctypes
import os
import platform
import sys

from tinygrad_char.kernels.cpu.control_groups import memory_limit
from tinygrad_char.models.config import TrainConfig

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
LARGEST_KEPT = 32 << 20  # bytes; glibc takes no more
KEPT_IN_ALL = 1 << 30
BYTES_OF_A_SAMPLE = 4096  # of a text that is generated: its random stream alone takes as much
BYTES_OF_A_LAYER = 8192  # of the objects of one block of a GPT, without its elements


def available_memory() -> int:
    """Return the bytes of memory that a process may have at most here.

    They are the machine's, or what its control groups allow if that is less; a number beyond all
    where nothing tells.
    """
    return min(_physical_memory(), int(min(memory_limit(), sys.maxsize)))


def _physical_memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return sys.maxsize


def check_memory(config: TrainConfig, vocab_size: int, in_host_memory: bool) -> None:
    """Find out before anything is made what could never fit.

    Counted is what certainly lies in memory at once: on the host the parameters, their gradients
    and AdamW's two averages, of which Muon has one, and in any case the batches of a step and of
    the evaluations.

    Raises
    ------
    MemoryError
        That is more than this machine has, or than the control group of this process may have.
    """
    from tinygrad_char.models.build import parameter_count

    _, elements = parameter_count(config, vocab_size)
    batch = 16 * config.batch_size * config.gpt.block_size + 256  # two int64 for each character
    needed = batch * (config.accumulate + 2 * config.eval_batches)
    if in_host_memory:
        arrays = 4 if config.optimizer == "adamw" else 3
        needed += 4 * (arrays + (config.ema > 0)) * elements
    if config.model == "gpt":
        needed += BYTES_OF_A_LAYER * config.gpt.n_layer
    if needed > (available := available_memory()):
        limited = available < _physical_memory()
        raise MemoryError(
            f"at least {needed / 2**30:,.4g} GiB are needed, and "
            f"{'the control group of this process may have' if limited else 'this machine has'} "
            f"{available / 2**30:,.4g}"
        )


def keep_freed_memory() -> bool:
    """Let freed arrays be used again instead of going back to the system; return whether it took.

    A training step allocates the same arrays over and over. By default glibc returns them to the
    system and takes fresh pages, which cost as much as the arithmetic on small models: with this,
    a step of `small` takes about a fourth less processor time. Other C libraries are left alone.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT) and mallopt(M_TRIM_THRESHOLD, KEPT_IN_ALL))
