"""Declarations of kernels are read as the compiler reads them."""

import pytest

from tinygrad_char.kernels.cuda.signature import Parameter, Signature, SignatureError, parse

TEXT = """
// extern "C" __global__ void commented(int n) {}
/* extern "C" __global__ void
   commented_too(int n) {} */
__device__ float helper(float x) { return x; }
extern "C" __global__ void __launch_bounds__(2 * (SIZE + 1), 4)
first(const float *__restrict__ x, T* y, unsigned long long n, const float scale) {}
extern "C" __global__ __launch_bounds__(64) void second() {}
extern "C" __global__ void third(float const* x, unsigned seed, // a comment, with a comma
                                 size_t n, long long m, bool flag);
"""


def test_parameters_bounds_and_names():
    found = parse(TEXT, {"T": "__nv_bfloat16", "SIZE": 3})
    assert found == {
        "first": Signature(
            "first",
            (
                Parameter("x", "float", pointer=True, const=True),
                Parameter("y", "__nv_bfloat16", pointer=True),
                Parameter("n", "unsigned long long"),
                Parameter("scale", "float", const=True),
            ),
            "2 * (SIZE + 1)",
        ),
        "second": Signature("second", (), "64"),
        "third": Signature(
            "third",
            (
                Parameter("x", "float", pointer=True, const=True),
                Parameter("seed", "unsigned"),
                Parameter("n", "size_t"),
                Parameter("m", "long long"),
                Parameter("flag", "bool"),
            ),
        ),
    }


def test_dtypes_and_declarations():
    first = parse(TEXT, {"T": "__nv_bfloat16"})["first"]
    dtypes = [each.dtype for each in first.parameters]
    assert dtypes == ["float32", "bfloat16", "uint64", "float32"]
    declarations = [each.declaration for each in first.parameters]
    assert declarations == ["const float*", "__nv_bfloat16*", "unsigned long long", "const float"]


@pytest.mark.parametrize("parameter", ["float** x", "T* x", "float4 x", "long n", "void* x", "n"])
def test_other_parameters_are_refused(parameter):
    with pytest.raises(SignatureError, match=r"kernel f: parameter '.*' is neither a scalar nor"):
        parse(f'extern "C" __global__ void f({parameter}) {{}}')


def test_a_kernel_that_cannot_be_read_is_not_overlooked():
    text = 'extern "C" __global__ void f(int n) {}\ntemplate <class T> __global__ void g(T n) {}'
    with pytest.raises(SignatureError, match=r"2 kernels are marked __global__, but 1 could be "):
        parse(text)
