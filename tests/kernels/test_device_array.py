"""The arrays of cuda-on-cpu: told apart from the host's, and recorded when that is asked for."""

import numpy as np
import pytest

from tinygrad_char.kernels.array import namespace
from tinygrad_char.kernels.cuda_on_cpu.device_array import NAMESPACE, DeviceArray, Recorder

xp = NAMESPACE


def device(values, dtype=np.float32):
    return xp.array(np.array(values, dtype))


@pytest.fixture
def x():
    return device([[1, 2, 3], [4, 5, 6]])


def test_what_is_made_of_device_arrays_is_one(x):
    results = [
        *(x + 1, -x, x @ x.T, x.sum(), x.sum(axis=0), x.mean(), x.max(axis=1), x[0], x[0, 1]),
        *(
            x[xp.array([0, 1]), xp.array([1, 1])],
            x.T,
            x.reshape(3, 2),
            x.argmax(),
            x.argmax(axis=1),
        ),
        *(xp.exp(x), xp.where(x > 2, x, 0), xp.zeros(3), xp.empty_like(x), xp.full((), 2.0)),
        *(x.astype(np.float64), x.copy(), xp.broadcast_to(x, (4, 2, 3)), xp.asarray(x), x > 2),
        *(xp.einsum("ij,ij->i", x, x), x.cumsum(axis=0), x.take(xp.array([1, 0]), axis=0)),
        xp.lib.stride_tricks.as_strided(x, (2,), (4,)),
    ]
    for each in results:
        assert type(each) is DeviceArray
        assert namespace(each) is xp
    assert (x > 2).any()
    assert not (x > 2).all()


def test_values_are_numpys(x):
    host = x.get()
    assert type(host) is np.ndarray
    np.testing.assert_array_equal((xp.exp(x) * 2 + x[:, :1]).get(), np.exp(host) * 2 + host[:, :1])
    np.testing.assert_array_equal(xp.concatenate([x, x], axis=1).get(), np.hstack([host, host]))
    x[0] += 1
    x[x > 5] = 0
    xp.add.at(x, xp.array([1, 1]), 1)
    np.testing.assert_array_equal(x.get(), [[2, 3, 4], [6, 7, 2]])
    np.testing.assert_array_equal(host, [[1, 2, 3], [4, 5, 6]])


def test_an_element_and_a_slice_share_memory(x):
    x[0, 1][...] = 9
    x[1][0] = 8
    x.reshape(6)[5] = 7
    np.testing.assert_array_equal(x.get(), [[1, 9, 3], [8, 5, 7]])


def test_moving_copies(x):
    host = np.ones(3)
    copies = xp.asarray(host), xp.array(host)
    host[0] = 2
    assert [float(each[0]) for each in copies] == [1, 1]
    assert xp.asarray(host, np.float32).dtype == np.float32


@pytest.mark.parametrize(
    "mix",
    [
        lambda x, host: x + host,
        lambda x, host: host * x,
        lambda x, host: xp.where(host > 0, x, x),
        lambda x, host: xp.maximum(x, host),
        lambda x, host: x.__setitem__(0, host),
        lambda x, host: np.add(x, x, out=host),
        lambda x, host: x.__iadd__(host),
    ],
)
def test_arrays_of_the_host_do_not_mix(x, mix):
    with pytest.raises(TypeError, match=r"shape \(3,\) is on the host.*from_numpy"):
        mix(x, np.ones(3, np.float32))


def test_numbers_of_numpy_mix(x):
    assert type(x * np.float32(2)) is DeviceArray
    assert type(np.float32(2) * x) is DeviceArray


def test_a_recording_does_nothing_until_it_is_repeated(x):
    total = device(0)
    scratch = device([7, 7])

    def step():
        scratch[...] = 0
        scratch[0] = x.sum()
        y = xp.where(x > 2, x, 0).astype(np.float64)
        moved = y.T.reshape(6).copy()
        ones = xp.ones_like(x)
        ones += xp.exp(x)
        np.add(total, 1, out=total)
        return moved, ones

    (moved, ones), repeat = Recorder().capture(step)
    assert float(total) == 0
    assert scratch.get().tolist() == [7, 7]
    for round in (1, 2):
        x[...] = x * round
        repeat()
        host = x.get()
        assert float(total) == round
        assert scratch.get().tolist() == [host.sum(), 0]
        np.testing.assert_array_equal(moved.get(), np.where(host > 2, host, 0).T.reshape(6))
        np.testing.assert_array_equal(ones.get(), 1 + np.exp(host))


@pytest.mark.parametrize(
    "read", [float, bool, int, lambda x: x.item(), lambda x: x.tolist(), lambda x: x.get()]
)
def test_reading_cannot_be_recorded(x, read):
    with pytest.raises(RuntimeError, match="cannot be read while"):
        Recorder().capture(lambda: read(x[0, 0]))
    assert read(x[0, 0]) == 1  # and the recording has ended


def test_moving_from_the_host_cannot_be_recorded():
    with pytest.raises(RuntimeError, match=r"asarray: an array of shape \(3,\) cannot be copied"):
        Recorder().capture(lambda: xp.asarray(np.ones(3)))


def test_copies_behind_the_recorders_back_are_refused(x):
    with pytest.raises(RuntimeError, match="copied in a way that cannot be recorded"):
        Recorder().capture(lambda: x.repeat(2))
    assert x.repeat(2).size == 12


def test_warming_up_is_doing():
    assert Recorder().warm_up(lambda: 5) == 5
