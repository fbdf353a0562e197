"""How the C library hands memory back, set where the program owns the process."""

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
LARGEST_KEPT = 32 << 20  # bytes; glibc takes no more
KEPT_IN_ALL = 1 << 30


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
