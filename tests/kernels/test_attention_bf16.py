"""Attention in C with the operands of its products rounded to bfloat16."""

import numpy as np
import pytest
import unseen
from hypothesis import given, settings
from hypothesis import strategies as st
from test_attention import draw, naive

from tinygrad_char.kernels.attention import Options, Saved, reference
from tinygrad_char.kernels.backend import CPU, status
from tinygrad_char.kernels.cpu.extension import compiled
from tinygrad_char.kernels.dropout import DropoutKey, keep_mask, keep_scale
from tinygrad_char.kernels.operations import Settings

pytestmark = pytest.mark.skipif(compiled is None, reason=status())
BEST, WITHOUT, WIDEST = 2, 1, 1 << 40
EPS = 2.0**-8
KEY = DropoutKey(7, 3)
LENGTHS = [1, 3, 17, 33, 95, 96, 97, 130, 193]


@pytest.fixture(params=[4, 8, 16])
def lanes(request):
    """Have heads computed in registers of so many elements, where this processor has them."""
    if compiled.attention_choose_lanes(request.param) != request.param:
        pytest.skip(f"this processor has no registers of {request.param} elements")
    yield request.param
    compiled.attention_choose_lanes(WIDEST)


def run(q, k, v, grad, options, serving=None):
    """Return out, statistics, dq, dk and dv."""
    table = serving or CPU.under(Settings(bf16=True)).operation("attention")
    out, statistics = table.forward(q, k, v, options)
    grads = tuple(np.full_like(each, np.nan) for each in (q, k, v))
    table.backward(grad, Saved(q, k, v, out, statistics), grads, options)
    return out, statistics, *grads


@settings(deadline=None, max_examples=30)
@given(
    *(st.sampled_from(LENGTHS) for _ in "qk"),
    *(st.integers(1, 40) for _ in "de"),
    st.booleans(),
    st.booleans(),
)
def check_any_sizes(queries, keys, size, value_size, causal, dropped):
    q, k, v, grad = draw(1, 2, queries, keys, size, value_size)
    dropout, kept = 0.0, 1.0
    if dropped:
        dropout = 0.25
        kept = keep_mask(np, (1, 2, queries, keys), dropout, KEY) * keep_scale(dropout)
    out, _, *grads = run(q, k, v, grad, Options(causal, 0.3, dropout, KEY))
    wide = [each.astype(np.float64) for each in (q, k, v, grad)]
    truths, sizes = naive(*wide, causal, 0.3, kept)
    for mine, truth, most in zip((out, *grads), truths, sizes, strict=True):
        assert mine.dtype == np.float32
        assert np.abs(mine - truth).max() <= 4 * EPS * most


def test_any_sizes_agree_with_float64_to_the_rounding_of_operands(lanes):
    check_any_sizes()


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("scale", [0.2, -0.2])
@pytest.mark.parametrize(("queries", "keys"), [(8, 8), (96, 96), (97, 95), (193, 130), (20, 257)])
def test_the_reference_rounds_what_the_kernel_does(queries, keys, scale, dropout):
    arrays, options = draw(2, 2, queries, keys, 32, 31), Options(True, scale, dropout, KEY)
    mine = run(*arrays, options)
    theirs = run(*arrays, options, CPU.under(ROUNDING).operation("attention"))
    unrounded = run(*arrays, options, CPU.operation("attention"))
    for i, (a, b, c) in enumerate(zip(mine, theirs, unrounded, strict=True)):
        assert np.abs(a - b).mean() < 0.4 * np.abs(a - c).mean(), i


ROUNDING = Settings((("attention", "reference"),), bf16=True)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("size", [1, 2, 31, 64])
def test_bits_are_those_of_the_instruction(size, dropout):
    if compiled.product_choose_bf16(BEST) != BEST:
        pytest.skip("this processor has no AVX512_BF16")
    options = Options(True, -0.2 if size == 31 else 0.2, dropout, KEY)
    try:
        for queries, keys in [(17, 17), (64, 64), (97, 97), (130, 193), (257, 99)]:
            arrays = draw(2, 3, queries, keys, size, size)
            arrays[0][0, 0, 0] *= 2.0**-126  # what the instruction takes as 0
            found = []
            for way in (WITHOUT, BEST):
                compiled.product_choose_bf16(way)
                found.append(run(*arrays, options))
            for mine, theirs in zip(*found, strict=True):
                assert np.ascontiguousarray(mine).tobytes() == theirs.tobytes()
    finally:
        compiled.product_choose_bf16(BEST)


@pytest.mark.parametrize("case", unseen.CASES)
@pytest.mark.parametrize(("queries", "keys"), unseen.LENGTHS)
def test_what_is_not_seen_reaches_nothing(case, queries, keys, lanes):
    arrays = unseen.spoiled(case, queries, keys)
    out, _, *grads = run(*arrays, Options(True, 0.5))
    unseen.assert_unseen((out, *grads), arrays, 0.5, tolerance=3e-2)


@pytest.mark.parametrize("version", ["loops", "reference"])
def test_every_version_rounds(version):
    arrays = draw(1, 1, 5, 5, 4, 4)
    chosen = Settings((("attention", version),), bf16=True)
    found = run(*arrays, Options(False, 0.5), CPU.under(chosen).operation("attention"))
    out, statistics = reference.forward(*arrays[:3], Options(False, 0.5), bf16=True)
    np.testing.assert_array_equal(found[0], out)
    np.testing.assert_array_equal(found[1], statistics)
    assert (out != reference.forward(*arrays[:3], Options(False, 0.5))[0]).any()
