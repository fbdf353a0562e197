"""What the compiler's tools say about a compiled kernel file: its shared arrays, and its lines."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tinygrad_char.kernels.cuda_on_cpu.runner.compiler import RUNTIME
from tinygrad_char.kernels.cuda_on_cpu.runner.errors import RunnerError


@dataclass(frozen=True)
class SharedArray:
    """A static shared array: its function and name, and its place in the library's segment."""

    function: str
    name: str
    offset: int
    size: int


def shared_arrays(library: Path) -> list[SharedArray]:
    """Return the static shared arrays of a library.

    Raises
    ------
    RunnerError
        An array would be initialised; or `readelf`, which comes with the compiler, is missing.
    """
    found = set()
    for line in _run("readelf", "-sW", "-C", str(library)).splitlines():
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and fields[3] == "TLS" and "cuda_on_cpu" not in fields[7]:
            function, _, name = fields[7].rpartition("::")
            if function.startswith("guard variable for "):
                raise RunnerError(
                    f"the shared array {name} of {function[19:]} has elements with constructors; "
                    "shared memory is not initialised: use a type without any"
                )
            size = int(fields[2], 0)
            found.add(SharedArray(function, name, int(fields[1], 16), size))
    return sorted(found, key=lambda each: each.offset)


def source_line(library: Path, address: int) -> str:
    """Return `file:line` of the code before an address, with the caller if that was inlined."""
    output = _run("addr2line", "-i", "-e", str(library), hex(address - 1))
    places = [
        f"{Path(file).name}:{line}"
        for file, line in re.findall(r"^(.*):(\d+)", output, re.MULTILINE)
        if not Path(file).is_relative_to(RUNTIME)
    ]
    if not places:
        return f"code address {address:#x}"
    return places[0] if len(places) == 1 else f"{places[0]} (called from {places[-1]})"


def _run(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError as error:
        raise RunnerError(
            f"running CUDA kernels on the CPU needs {command[0]}: install binutils"
        ) from error
