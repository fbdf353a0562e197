"""What compilers make of accesses to several numbers at once, which no result shows."""

import shutil
import subprocess

import pytest

from kernels.launcher import FOLDER


@pytest.fixture(scope="module")
def nvcc():
    found = shutil.which("nvcc")
    if found is None:
        pytest.skip("nvcc is not on this machine")
    return found


@pytest.mark.parametrize(("scalar", "width"), [("float", "v4"), ("__nv_bfloat16", "v2")])
@pytest.mark.parametrize("source", ["dropout", "bias_activation"])
def test_four_numbers_are_written_by_one_instruction(nvcc, tmp_path, source, scalar, width):
    output = tmp_path / "kernel.ptx"
    macros = [f"-DSCALAR={scalar}", "-DACTIVATION=RELU"]
    command = [nvcc, "-ptx", "-arch=sm_90", "-std=c++17", f"-I{FOLDER}", *macros, "-o", str(output)]
    subprocess.run([*command, str(FOLDER / f"{source}.cu")], check=True)
    _, kernel, *_ = output.read_text().split(".entry")  # the first kernel's
    stores = [line.split()[0] for line in kernel.splitlines() if line.strip().startswith("st.g")]
    assert stores.count(f"st.global.{width}.b32") == 4  # four rows
    assert len(stores) == 4 + 16  # and where rows end anywhere, one by one
