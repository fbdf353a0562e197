"""What compilers make of accesses to several numbers at once, which no result shows."""

import re
import shutil
import subprocess
from itertools import groupby

import pytest

from tinygrad_char.kernels.cuda.launcher import FOLDER, Kernel, sources
from tinygrad_char.kernels.cuda.variants import variants

ONE_BY_ONE = {
    "adamw_factors",  # for one thread
    "column_sum",  # of what column_parts and others have added up: little
    "cross_entropy_reduce",  # a number for each row
    "cross_entropy_share",
    "embedding_backward_atomic",  # lanes add to numbers side by side
    "global_norm",  # of what sum_of_squares has added up
}
NARROW = {
    "softmax_forward",  # a mask of bytes
    "cross_entropy_forward",  # two numbers for each row
    "cross_entropy_one_pass",
    "cross_entropy_backward",
}
SUMS = {"column_parts", "cross_entropy_forward", "sum_of_squares"}
"""Write but a number for many that they read."""


def widest():
    """Return each file of memory-bound kernels with, by dtype, its variant that moves the most."""
    for path in sources():
        # which copies tiles; has few numbers; stands between products that take much longer
        if path.stem in ("attention", "sampling", "muon"):
            continue
        by_dtype = groupby(
            variants(path.read_text()), key=lambda macros: dict(macros).get("SCALAR")
        )
        for _, group in by_dtype:
            yield max(
                ((path.stem, macros) for macros in group),
                key=lambda case: int(dict(case[1]).get("VECTOR", 1)),
            )


@pytest.fixture(scope="module")
def accesses(tmp_path_factory):
    """Return a function that gives the accesses to global memory of each kernel of a file."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc is not on this machine")
    output = tmp_path_factory.mktemp("ptx") / "kernels.ptx"

    def compiled(source, macros):
        options = ["-ptx", "-arch=sm_90", "-std=c++17", f"-I{FOLDER}", "-o", str(output)]
        options += [f"-D{name}={value}" for name, value in macros]
        subprocess.run([nvcc, *options, str(Kernel(source, "").path)], check=True)
        _, *kernels = output.read_text().split(".entry")
        return {
            kernel.split("(")[0].strip(): re.findall(
                r"\b(?:ld\.global|st\.global|cp\.async\.cg)\.\S+", kernel
            )
            for kernel in kernels
        }

    return compiled


@pytest.mark.parametrize(("source", "macros"), list(widest()))
def test_kernels_move_sixteen_bytes_at_a_time(accesses, source, macros):
    for kernel, found in accesses(source, macros).items():
        wide = [each for each in found if re.search(r"\.v4\.[bfu]32$", each)]
        assert any(each.startswith("ld") for each in wide) == (kernel not in ONE_BY_ONE), kernel
        stores = kernel not in ONE_BY_ONE | SUMS
        assert any(each.startswith("st") for each in wide) == stores, kernel
        narrow = {each for each in found if re.search(r"\.v\d\.", each)} - set(wide)
        assert not narrow or kernel in NARROW, kernel


@pytest.mark.parametrize(("scalar", "rounds"), [("float", 4), ("__nv_bfloat16", 2)])
@pytest.mark.parametrize("source", ["dropout", "bias_activation", "residual"])
def test_a_tile_is_written_by_one_instruction_for_each_row(accesses, source, scalar, rounds):
    macros = {"SCALAR": scalar, "ACTIVATION": "RELU", "DROPOUT": 1}.items()
    stores = [each for each in next(iter(accesses(source, macros).values())) if each[:2] == "st"]
    assert stores.count("st.global.v4.b32") == rounds
    assert len(stores) == rounds + 16  # and where rows end anywhere, one by one


@pytest.mark.parametrize(
    ("scalar", "precision", "rows", "units"),
    [("__nv_bfloat16", "BF16", 2, 8), ("float", "TF32", 1, 16)],
)
def test_attention_copies_its_tiles_without_a_loop(accesses, scalar, precision, rows, units):
    macros = {"SCALAR": scalar, "PRECISION": precision, "ROWS": rows, "HEAD": 64}
    options = {"FORWARD_OTHERS": 64, "DROPOUT": 1}
    found = accesses("attention", [*macros.items(), *options.items()])["attention_forward"]
    copies = [each for each in found if each.startswith("cp.async.cg")]
    own, other = (count * units // 128 for count in (64 * rows, 64))  # by each of 128 threads
    assert len(copies) == own + 2 * 2 * other  # queries; keys and values, of this tile and the next
