"""What a CUDA kernel takes, read from its declaration in the `.cu` file."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tinygrad_char.kernels.cpu.forks import cached_property
from tinygrad_char.kernels.cuda.variants import variants

DTYPES = {
    "bool": "bool",
    "signed char": "int8",
    "int8_t": "int8",
    "unsigned char": "uint8",
    "uint8_t": "uint8",
    "short": "int16",
    "int16_t": "int16",
    "unsigned short": "uint16",
    "uint16_t": "uint16",
    "int": "int32",
    "int32_t": "int32",
    "unsigned": "uint32",
    "unsigned int": "uint32",
    "uint32_t": "uint32",
    "long long": "int64",
    "int64_t": "int64",
    "unsigned long long": "uint64",
    "uint64_t": "uint64",
    "size_t": "uint64",
    "float": "float32",
    "double": "float64",
    "__nv_bfloat16": "bfloat16",
}
"""The name of the NumPy dtype of each C type that a kernel may take."""


class SignatureError(ValueError):
    """A kernel is declared in a way that cannot be read, or does not exist."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel: a scalar, or a pointer to an array's first element."""

    name: str
    ctype: str
    pointer: bool = False
    const: bool = False

    @cached_property
    def dtype(self) -> str:
        """The name of the NumPy dtype of the scalar, or of the array's elements."""
        return DTYPES[self.ctype]

    @property
    def declaration(self) -> str:
        """The parameter's type in C++, such as `const float*`."""
        return f"{'const ' * self.const}{self.ctype}{'*' * self.pointer}"


@dataclass(frozen=True)
class Signature:
    """A kernel's name, parameters and the first argument of its `__launch_bounds__` (or None)."""

    name: str
    parameters: tuple[Parameter, ...]
    launch_bounds: str | None = None


_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_NESTED = r"[^()]*(?:\([^()]*\)[^()]*)*"
_BOUNDS = rf"(?:__launch_bounds__\s*\(({_NESTED})\)\s*)?"
_KERNEL = re.compile(
    rf'extern\s+"C"\s+__global__\s+{_BOUNDS}void\s+{_BOUNDS}(\w+)\s*\(({_NESTED})\)', re.DOTALL
)
_DROPPED = re.compile(r"\b(__restrict__|__grid_constant__)\b")


def parse(text: str, defines: Mapping[str, object] | None = None) -> dict[str, Signature]:
    """Return the signatures of the kernels that a `.cu` text declares, by name.

    A kernel is declared as `extern "C" __global__ void name(parameters)`; `__launch_bounds__` may
    stand before or after `void`. `defines` are the macros that the text is compiled with: a
    parameter may be declared by such a name.

    Raises
    ------
    SignatureError
        A kernel is not `extern "C"`, or takes something else than scalars and pointers to them.
    """
    code = _COMMENT.sub(" ", text)
    signatures = {}
    for match in _KERNEL.finditer(code):
        before, after, name, parameters = match.groups()
        bounds = before or after
        signatures[name] = Signature(
            name,
            tuple(
                _parameter(each, name, defines or {})
                for each in parameters.split(",")
                if parameters.strip()
            ),
            bounds.split(",")[0].strip() if bounds else None,
        )
    declared = len(re.findall(r"\b__global__\b", code))
    if declared != len(signatures):
        raise SignatureError(
            f"{declared} kernels are marked __global__, but {len(signatures)} could be read "
            f"({', '.join(signatures) or 'none'}): declare each, once, as "
            'extern "C" __global__ void name(parameters)'
        )
    return signatures


def _parameter(text: str, kernel: str, defines: Mapping[str, object]) -> Parameter:
    words = _DROPPED.sub(" ", text).replace("*", " * ").split()
    name = words.pop() if words else ""
    pointers = words.count("*")
    const = "const" in words
    types = [str(defines.get(each, each)) for each in words if each not in ("const", "*")]
    ctype = " ".join(types)
    if ctype not in DTYPES or pointers > 1:
        raise SignatureError(
            f"kernel {kernel}: parameter {text.strip()!r} is neither a scalar nor a pointer to one "
            f"of {', '.join(DTYPES)}"
        )
    return Parameter(name, ctype, pointers == 1, const)


@cache
def signatures_of(path: Path, defines: tuple[tuple[str, object], ...]) -> dict[str, Signature]:
    """Return what `parse` reads in a file, once per file and set of defines.

    Raises
    ------
    SignatureError
        As `parse`, with the file's name; or there is no such file; or it names the variants that it
        is compiled in (kernels/cuda/variants.py), and these defines are none of them.
    """
    try:
        text = path.read_text(encoding="utf-8")
        named = variants(text)
        macros = tuple(sorted((name, str(value)) for name, value in defines))
        if named != [()] and macros not in named:
            given = " ".join(f"{name}={value}" for name, value in macros) or "no macros"
            raise SignatureError(f"{given}: not among the variants that the file names")
        return parse(text, dict(defines))
    except FileNotFoundError as error:
        raise SignatureError(f"there is no file {path}") from error
    except ValueError as error:
        raise SignatureError(f"{path.name}: {error}") from error
