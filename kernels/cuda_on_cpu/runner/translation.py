"""Makes C++ of a `.cu` file: one rewritten kind of line, and entry points at its end."""

import re
from collections.abc import Mapping
from pathlib import Path

from tinygrad_char.kernels.cuda.signature import Signature

ENTRY = "cuda_on_cpu_call_"
THREADS = "cuda_on_cpu_threads_"
DEFAULT_THREADS = 1024

_DYNAMIC_SHARED = re.compile(
    r"extern\s+__shared__\s+(?:__align__\s*\(\s*\w+\s*\)\s*)?(\w[\w: ]*?)\s+(\w+)\s*\[\s*\]\s*;"
)


def translate(text: str, path: Path, signatures: Mapping[str, Signature]) -> str:
    """Return C++ that the runtime's headers make equal to the `.cu` text, line by line.

    `extern __shared__ T name[];` is the one thing that no macro can turn into C++. For each kernel
    follows a function that unpacks the arguments, as cuLaunchKernel takes them; it compiles only
    if the kernel's parameters have exactly the types of the signature.
    """
    body = _DYNAMIC_SHARED.sub(_rewrite, text)
    entries = "".join(_entry(signature) for signature in signatures.values())
    return f'#line 1 "{path}"\n{body}\n#line 1 "{path.stem} entry points"\n{entries}'


def _rewrite(match: re.Match[str]) -> str:
    lines = "\n" * match.group().count("\n")
    return f"CUDA_ON_CPU_DYNAMIC_SHARED({match[1]}, {match[2]});{lines}"


def _entry(signature: Signature) -> str:
    types = [each.declaration for each in signature.parameters]
    values = ", ".join(f"*static_cast<{t}*>(arguments[{i}])" for i, t in enumerate(types))
    return f"""
extern "C" __attribute__((visibility("default"), no_sanitize("thread")))
void {ENTRY}{signature.name}(void** arguments) {{
    void (*kernel)({", ".join(types)}) = {signature.name};
    kernel({values});
}}
extern "C" __attribute__((visibility("default")))
const unsigned {THREADS}{signature.name} = {signature.launch_bounds or DEFAULT_THREADS};
"""
