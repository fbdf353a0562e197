"""A compiled kernel file: what its kernels need, and how they are called."""

import ctypes
import sys
from collections.abc import Sequence
from threading import Lock, current_thread, local
from weakref import finalize

import numpy as np

from tinygrad_char.kernels.cpu.forks import renew_in_forked_children
from tinygrad_char.kernels.cuda.launcher import FOLDER, Argument, Kernel, Launch
from tinygrad_char.kernels.cuda.signature import signatures_of
from tinygrad_char.kernels.cuda_on_cpu.runner.compiler import build
from tinygrad_char.kernels.cuda_on_cpu.runner.errors import KernelError, RunnerError
from tinygrad_char.kernels.cuda_on_cpu.runner.symbols import SharedArray, shared_arrays, source_line
from tinygrad_char.kernels.cuda_on_cpu.runner.translation import ENTRY, THREADS, translate

ORDERS = ("forward", "reverse", "random")


class _Array(ctypes.Structure):
    """Mirrors Array in launch.h."""

    _fields_ = (
        ("begin", ctypes.c_uint64),
        ("bytes", ctypes.c_uint64),
        ("name", ctypes.c_char_p),
    )


class _Fault(ctypes.Structure):
    """Mirrors Fault in launch.h."""

    _fields_ = (("sites", ctypes.c_uint64 * 2), ("message", ctypes.c_char * 1024))


class _Launch(ctypes.Structure):
    """Mirrors Launch in launch.h."""

    _fields_ = (
        ("kernel", ctypes.c_void_p),
        ("arguments", ctypes.c_void_p),
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("shared_bytes", ctypes.c_uint32),
        ("order", ctypes.c_uint32),
        ("seed", ctypes.c_uint64),
        ("arrays", ctypes.POINTER(_Array)),
        ("static_shared", ctypes.POINTER(_Array)),
        ("array_count", ctypes.c_uint32),
        ("static_shared_count", ctypes.c_uint32),
        ("stacks", ctypes.c_void_p),
        ("fault", ctypes.POINTER(_Fault)),
    )


class _Stacks(local):
    """The stacks of the fibers that a system thread runs, whichever library's these are."""

    address: int | None = None

    def make(self, library: ctypes.CDLL) -> int:
        """Return their address, once they are made.

        Raises
        ------
        RunnerError
            There is no memory for them.
        """
        if self.address is None:
            make, free = library.cuda_on_cpu_make_stacks, library.cuda_on_cpu_free_stacks
            make.restype, free.argtypes = ctypes.c_void_p, (ctypes.c_void_p,)
            self.address = make()
            if self.address is None:
                raise RunnerError(
                    "no memory for the stacks of CUDA threads (320 MiB of addresses): raise the "
                    "limit that `ulimit -v` shows"
                )
            finalize(current_thread(), free, self.address).atexit = False
        return self.address


_stacks = _Stacks()


class Library:
    """The kernels of one file, compiled with one set of macros in one mode of the runner."""

    def __init__(self, kernel: Kernel, mode: str) -> None:
        path, signatures = kernel.path, signatures_of(kernel.path, kernel.defines)
        folders = dict.fromkeys([path.parent, FOLDER])
        self._path = (
            build(
                path.name,
                translate(path.read_text(encoding="utf-8"), path, signatures),
                sorted(header for folder in folders for header in folder.glob("*.cuh")),
                [f"{name}={value}" for name, value in kernel.defines],
                mode,
            )
            / "library.so"
        )
        self._library = ctypes.CDLL(str(self._path))
        self._functions = tuple(signatures)
        self._checks = mode == "check"
        self._shared = shared_arrays(self._path)
        self._shared_table = (_Array * len(self._shared))(
            *(_Array(each.offset, each.size, _name(each)) for each in self._shared)
        )
        self.renew()
        renew_in_forked_children(self)

    def renew(self) -> None:
        """Take a new lock, see kernels/cpu/forks.py."""
        self._lock = Lock()  # the runtime runs one launch at a time

    def threads(self, function: str) -> int:
        """Return the most threads that a block of a kernel can have."""
        return ctypes.c_uint.in_dll(self._library, THREADS + function).value

    def static_shared_bytes(self, function: str) -> int:
        """Return the bytes of a kernel's shared arrays, with those of functions it may call."""
        others = {each for each in self._functions if each != function}
        return sum(each.size for each in self._shared if each.function not in others)

    def run(self, launch: Launch, arguments: Sequence[Argument], order: str, seed: int) -> None:
        """Run a launch with the given arguments in place of its own.

        Raises
        ------
        KernelError
            The kernel did something wrong.
        """
        name = launch.kernel.function
        values = ctypes.create_string_buffer(b"".join(map(_value, arguments)))
        places = range(ctypes.addressof(values), ctypes.addressof(values) + len(values) - 1, 8)
        pointers = (ctypes.c_void_p * len(arguments))(*places)
        arrays = self._arrays(launch, arguments)
        table = (_Array * len(arrays))(*arrays)
        fault = _Fault()
        request = _Launch(
            kernel=ctypes.cast(getattr(self._library, ENTRY + name), ctypes.c_void_p),
            arguments=ctypes.addressof(pointers),
            grid=(*launch.grid, 1, 1)[:3],
            block=(*launch.block, 1, 1)[:3],
            shared_bytes=launch.shared_bytes,
            order=ORDERS.index(order),
            seed=seed,
            arrays=table,
            static_shared=self._shared_table,
            array_count=len(arrays),
            static_shared_count=len(self._shared),
            stacks=_stacks.make(self._library),
            fault=ctypes.pointer(fault),
        )
        with self._lock:
            failed = self._library.cuda_on_cpu_run(ctypes.byref(request))
        if failed:
            raise KernelError(f"kernel {name}: {self._explain(fault)}")

    def _arrays(self, launch: Launch, arguments: Sequence[Argument]) -> list[_Array]:
        """Return the arrays that the kernel may touch, each once, if that is checked."""
        arrays: dict[int, _Array] = {}
        parameters = launch.kernel.signature.parameters if self._checks else ()
        for parameter, argument in zip(parameters, arguments, strict=self._checks):
            if isinstance(argument, np.ndarray) and argument.nbytes:
                address, size = argument.ctypes.data, argument.nbytes
                if address not in arrays or arrays[address].bytes < size:
                    name = f"the array `{parameter.name}`".encode()
                    arrays[address] = _Array(address, size, name)
        return list(arrays.values())

    def _explain(self, fault: _Fault) -> str:
        message = fault.message.decode()
        for number, site in enumerate(fault.sites, start=1):
            if site:
                message = message.replace(f"{{{number}}}", source_line(self._path, site))
        return message


def _value(argument: Argument) -> bytes:
    """Return eight bytes that begin with the argument as a kernel takes it."""
    if argument is None:
        return bytes(8)
    if isinstance(argument, np.ndarray):
        return argument.__array_interface__["data"][0].to_bytes(8, sys.byteorder)
    return argument.tobytes().ljust(8, b"\0")


def _name(array: SharedArray) -> bytes:
    return f"the shared array `{array.name}`".encode()
