"""Print what the tests cover and how long the code is: `python tests/census.py`."""

import io
import sys
import tokenize
from collections.abc import Callable
from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
FOLDERS = ("kernels", "tinygrad_char", "models", "benchmarks", "tests")
NOT_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}
C_LIKE = {".c", ".h", ".cu", ".cuh", ".cpp"}
sys.path[:1] = [str(ROOT), str(TESTS / "tinygrad_char")]  # not tests/, whose folders look alike

from op_cases import CASES, check_gradients, check_parity, operations, recorded  # noqa: E402


def lines_of_code(path: Path) -> int:
    """Return how many lines hold code: not blank, and more than a comment. Docstrings count."""
    text = path.read_text(encoding="utf-8")
    if path.suffix in C_LIKE:
        return c_lines(text)
    numbers: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NOT_CODE:
            numbers.update(range(token.start[0], token.end[0] + 1))
    lines = text.splitlines()
    return sum(bool(lines[number - 1].strip()) for number in numbers)


def c_lines(text: str) -> int:
    """Return how many lines of C hold more than a comment (one that starts its line)."""
    count = 0
    inside = False
    for line in map(str.strip, text.splitlines()):
        if inside or line.startswith("/*"):
            inside = "*/" not in line
        elif line and not line.startswith("//"):
            count += 1
    return count


def covered(check: Callable) -> int:
    """Return how many operations `check` puts on the tape over all cases."""
    with recorded() as seen:
        for case in CASES:
            check(case)
    return len(operations() & seen)


def main() -> None:
    """Print the counts."""
    total = len(operations())
    print(f"{covered(check_gradients)} of {total} operations by gradcheck", end=", ")
    try:
        import torch
    except ImportError:
        print("parity not run: PyTorch is not installed")
    else:
        both = covered(lambda case: [check_parity(torch, case, d) for d in ("f4", "f8")])
        print(f"{both} of {total} by parity with PyTorch {torch.__version__}")
    print(f"{len(CASES)} cases")
    for folder in FOLDERS:
        files = sorted(
            path
            for path in (ROOT / folder).rglob("*")
            if path.suffix == ".py" or path.suffix in C_LIKE
        )
        lines = sum(map(lines_of_code, files))
        print(f"{folder + '/':<15}{lines:>7,} lines of code in {len(files)} files")


if __name__ == "__main__":
    main()
