"""Which module computes on which array."""

import numpy as np
import pytest

from tinygrad_char.kernels.array import namespace
from tinygrad_char.kernels.backend import CPU, DeviceError
from tinygrad_char.kernels.cpu.extension import compiled
from tinygrad_char.kernels.devices import backend_of, get_backend


@pytest.mark.parametrize("array", [np.ones(2), np.float32(1), np.bool_(True)])
def test_numpy_arrays_and_scalars_belong_to_the_cpu(array):
    assert namespace(array) is np
    assert backend_of(array) is CPU


def test_cpu_hands_arrays_through():
    array = np.ones(3)
    assert get_backend("cpu") is CPU
    assert CPU.from_numpy(array) is array
    assert CPU.to_numpy(array) is array
    assert str(CPU) == "cpu"


def test_unknown_device_is_named():
    with pytest.raises(DeviceError, match="unknown device 'tpu': expected one of cpu, cuda"):
        get_backend("tpu")


def test_cuda_without_cupy_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cupy", None)
    get_backend.cache_clear()
    with pytest.raises(DeviceError, match=r"needs CuPy.*pip install -e .*cuda13.* in the checkout"):
        get_backend("cuda")


def test_what_a_backend_does_with_a_batch_is_said_by_its_properties():
    names = ("in_host_memory", "shards_batches")
    assert [getattr(CPU, name) for name in names] == [True, True]
    assert (CPU.recorder is None) == (compiled is None)
    try:
        device = get_backend("cuda-on-cpu")
    except DeviceError as error:
        pytest.skip(str(error))
    assert [getattr(device, name) for name in names] == [False, False]
    assert device.recorder is not None
