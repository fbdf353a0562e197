"""The devices that a test of results runs on: it takes `device`."""

import pytest

from tinygrad_char.kernels.backend import DeviceError
from tinygrad_char.kernels.devices import get_backend


@pytest.fixture(params=["cpu", "cuda-on-cpu"])
def device(request):
    try:
        get_backend(request.param)
    except DeviceError as error:
        pytest.skip(str(error))
    return request.param
