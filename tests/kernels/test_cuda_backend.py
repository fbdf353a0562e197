"""The CUDA backend: what it says where it cannot be used, and its double on the CPU."""

import gc
import sys
import weakref
from types import SimpleNamespace

import numpy as np
import pytest

from tinygrad_char import Tensor, grad, nn, no_grad
from tinygrad_char import functional as F
from tinygrad_char.kernels.backend import CPU, DeviceError
from tinygrad_char.kernels.cuda import backend as cuda
from tinygrad_char.kernels.cuda import cublas
from tinygrad_char.kernels.cuda.parameters import FlatParameters
from tinygrad_char.kernels.cuda_on_cpu.device_array import DeviceArray
from tinygrad_char.kernels.cuda_on_cpu.runner.compiler import find_compiler
from tinygrad_char.kernels.devices import backend_of, get_backend
from tinygrad_char.kernels.layernorm import backward as layernorm_backward
from tinygrad_char.kernels.operations import Settings, operations, using


class OutOfMemoryError(MemoryError):
    """CuPy's."""


class FakeCupy:
    """As much of CuPy as making a backend needs, with a GPU of a given capability."""

    __version__ = "14.2.0"
    ndarray = type("ndarray", (), {})

    def __init__(self, capability="90", available=True):
        properties = {"name": b"NVIDIA T4"}
        self.allocator = None
        self.cuda = SimpleNamespace(
            is_available=lambda: available,
            Device=lambda: SimpleNamespace(compute_capability=capability),
            runtime=SimpleNamespace(
                getDevice=lambda: 0,
                getDeviceProperties=lambda number: properties,
                memGetInfo=lambda: (3 << 20, 40 << 30),
            ),
            memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
            set_allocator=lambda allocator: setattr(self, "allocator", allocator),
        )
        self.used = 0

    def get_default_memory_pool(self):
        return SimpleNamespace(malloc=self.malloc, used_bytes=lambda: 5 << 20)

    def malloc(self, size):
        if size > 1 << 20:
            raise OutOfMemoryError(f"Out of memory allocating {size} bytes")
        return size


@pytest.fixture
def with_cupy(monkeypatch):
    """Return a function that loads the backend with a CuPy in the place of the installed one."""

    def load(cupy):
        monkeypatch.setitem(sys.modules, "cupy", cupy)
        return cuda.load()

    monkeypatch.setattr(cuda, "load_library", SimpleNamespace)
    return load


def test_a_machine_without_driver_or_gpu_is_told_so(with_cupy):
    with pytest.raises(DeviceError, match=r"CuPy 14\.2\.0 is installed but finds no NVIDIA driver"):
        with_cupy(FakeCupy(available=False))


@pytest.mark.parametrize("capability", ["75", "61"])
def test_a_gpu_that_is_too_old_is_named(with_cupy, capability):
    number = f"{capability[0]}.{capability[1]}"
    with pytest.raises(DeviceError, match=f"NVIDIA T4 has compute capability {number}.*need 8.0"):
        with_cupy(FakeCupy(capability))


@pytest.mark.parametrize("capability", ["80", "90", "103", "120"])
def test_newer_gpus_are_served(with_cupy, capability):
    loaded = with_cupy(FakeCupy(capability))
    assert loaded.name == "cuda"
    assert loaded.array_type is FakeCupy.ndarray
    assert not loaded.in_host_memory


def test_missing_cublas_is_an_error_of_the_device(with_cupy, monkeypatch):
    def missing():
        raise DeviceError("cuBLAS was not found")

    monkeypatch.setattr(cuda, "load_library", missing)
    with pytest.raises(DeviceError, match="cuBLAS was not found"):
        with_cupy(FakeCupy())


def test_out_of_memory_says_what_was_asked_what_is_free_and_what_to_reduce(with_cupy):
    cupy = FakeCupy()
    with_cupy(cupy)
    assert cupy.allocator(512) == 512
    message = (
        r"2,048\.0 MiB were asked for, of 40,960\.0 MiB in all 3\.0 MiB are free and 5\.0 MiB "
        r"hold arrays.*lower --batch-size, --block-size or --n-embd"
    )
    with pytest.raises(DeviceError, match=message):
        cupy.allocator(2 << 30)


def test_no_compiler_is_an_error_of_cuda_on_cpu(monkeypatch):
    find_compiler.cache_clear()
    monkeypatch.setenv("CXX", "no-compiler-at-all")
    get_backend.cache_clear()
    with pytest.raises(DeviceError, match=r"'cuda-on-cpu'.*CXX=no-compiler-at-all is not one"):
        get_backend("cuda-on-cpu")
    monkeypatch.undo()
    find_compiler.cache_clear()


def test_arrays_know_their_device(on_cpu):
    host = np.arange(6, dtype=np.float32).reshape(2, 3)
    array = on_cpu.from_numpy(host)
    assert type(array) is on_cpu.array_type is DeviceArray
    assert backend_of(array) is backend_of(array[0, 0]) is backend_of(array.sum()) is on_cpu
    assert backend_of(host) is CPU
    back = on_cpu.to_numpy(array)
    assert type(back) is np.ndarray
    back[0] = 9
    host[0] = 8
    assert array.get().tolist() == [[0, 1, 2], [3, 4, 5]]


def test_tensors_move_there_and_back_with_their_gradients(on_cpu):
    x = Tensor([[1.0, -2.0], [3.0, 4.0]], requires_grad=True)
    y = x.to("cuda-on-cpu")
    assert y.device == "cuda-on-cpu"
    assert (y * y).relu().sum().device == "cuda-on-cpu"
    (y.relu() @ y.T).sum().to("cpu").backward()
    assert x.grad.device == "cpu"
    z = Tensor(x.numpy() if not x.requires_grad else x.detach().numpy(), requires_grad=True)
    (z.relu() @ z.T).sum().backward()
    assert x.grad.tolist() == z.grad.tolist()
    with pytest.raises(TypeError, match="'cuda-on-cpu' does not turn into a NumPy array"):
        np.asarray(y.detach())


def test_devices_do_not_mix(on_cpu):
    x, y = Tensor([1.0]), Tensor([1.0], device="cuda-on-cpu")
    for mix in (lambda: x + y, lambda: y @ x, lambda: x.copy_(y), lambda: x + y.array):
        with pytest.raises(DeviceError, match="cuda-on-cpu"):
            mix()
    assert (y + np.ones(1, np.float32)).device == "cuda-on-cpu"


def test_what_the_kernels_serve_is_not_left_to_the_references(on_cpu):
    left = {name for name in operations() if on_cpu.version_of(name) == "reference"}
    assert left == {"add", "log_softmax", "sgd"}


def rounded_product(device):
    """Return an element of a product that TF32 rounds."""
    x = Tensor(np.full((2, 2), 1 + 2.0**-12, np.float32), device=device)
    return (x @ x).tolist()[0][0]


def test_tf32_is_a_choice_of_the_context(on_cpu):
    exact = rounded_product("cuda-on-cpu")
    with using(tf32=True):
        assert rounded_product("cuda-on-cpu") == 2 != exact
        with using(tf32=False):
            assert rounded_product("cuda-on-cpu") == exact
        with pytest.raises(DeviceError, match="'cpu' has no TF32 products"):
            rounded_product("cpu")
    assert rounded_product("cuda-on-cpu") == exact
    with using(tf32=False):
        assert rounded_product("cpu") == exact


def test_two_models_on_one_device_have_settings_of_their_own(on_cpu):
    class Square(nn.Module):
        def forward(self, x):
            return x @ x

    x = Tensor(np.full((2, 2), 1 + 2.0**-12, np.float32), device="cuda-on-cpu")
    rough, exact = Square(), Square()
    rough.settings = Settings(tf32=True)
    assert rough(x).tolist() == [[2, 2], [2, 2]] != exact(x).tolist()
    with using(tf32=False):  # the context is asked first
        assert rough(x).tolist() == exact(x).tolist()


def test_backward_computes_as_forward_did(on_cpu):
    x = Tensor(np.full((2, 2), 1 + 2.0**-12, np.float32), device="cuda-on-cpu", requires_grad=True)
    grads = []
    for tf32 in (True, False):
        with using(tf32=tf32):
            y = x @ x
        ones = Tensor(np.ones((2, 2), np.float32), device="cuda-on-cpu")
        grads.append(grad(y, [x], ones)[0].numpy())
    assert (grads[0] == 4).all()
    assert (grads[1] > 4).all()


def test_atomic_additions_are_a_choice_for_devices(launched):
    table = Tensor(np.ones((4, 8), np.float32), device="cuda-on-cpu", requires_grad=True)
    idx = Tensor(np.array([1, 1, 2]), device="cuda-on-cpu")
    for atomics in (False, True, False):
        with using(atomics=atomics):
            F.embedding(idx, table).sum().backward()
    found = [each for each in launched if each.startswith("embedding_backward")]
    assert found == ["embedding_backward", "embedding_backward_atomic", "embedding_backward"]
    with using(atomics=True):  # which may, and does not
        Tensor([1.0], requires_grad=True).sum().backward()


def test_checks_come_back_after_what_is_unchecked(on_cpu):
    table = Tensor(np.ones((4, 8), np.float32), device="cuda-on-cpu")
    idx = Tensor(np.array([5]), device="cuda-on-cpu")
    with using(check=False):
        assert np.isnan(F.embedding(idx, table).numpy()).all()
    with pytest.raises(IndexError, match="embedding: index at position"):
        F.embedding(idx, table)


def test_operations_know_where_parameters_lie_for_a_while(on_cpu):
    parameters = FlatParameters(np.zeros(3, np.float32), [])
    with using(parameters=parameters):
        assert on_cpu.chosen().settings.parameters is parameters
    assert on_cpu.chosen().settings.parameters is None


def test_nobody_keeps_what_operations_know_of_parameters(on_cpu):
    parameters = FlatParameters(np.zeros(3, np.float32), [])
    forgotten = weakref.ref(parameters)
    with using(parameters=parameters):
        chosen = on_cpu.chosen()
        assert on_cpu.chosen() is chosen  # the same at every operation
        assert chosen.settings.parameters is parameters
    del parameters, chosen
    gc.collect()
    assert forgotten() is None


@pytest.fixture
def launched(on_cpu, monkeypatch):
    """Return the names of the kernels that are launched, in order."""
    names = []
    executor = on_cpu.device.launcher.executor
    run = executor.run

    def noted(launch):
        names.append(launch.kernel.function)
        run(launch)

    monkeypatch.setattr(executor, "run", noted)
    return names


LOSS = ["cross_entropy_share", "cross_entropy_one_pass", "cross_entropy_reduce"]


def test_cross_entropy_reads_its_logits_once_where_a_gradient_is_wanted(launched):
    logits = np.random.default_rng(0).standard_normal((2, 3, 7), np.float32)
    targets = np.array([[0, 6, -100], [2, 2, 1]])
    x = Tensor(logits, requires_grad=True)
    F.cross_entropy(x, targets).backward()
    y = Tensor(logits, device="cuda-on-cpu", requires_grad=True)
    loss = F.cross_entropy(y, targets)
    assert launched == LOSS
    loss.backward(retain_graph=True)
    assert launched == [*LOSS, "cross_entropy_rescale"]
    np.testing.assert_allclose(y.grad.numpy(), x.grad.numpy(), atol=1e-7)
    first, y.grad = y.grad, None
    loss.backward(Tensor(np.float32(3), device="cuda-on-cpu"))  # walked again, and scaled
    assert launched[4:] == ["cross_entropy_share", "cross_entropy_backward"]
    np.testing.assert_allclose(y.grad.numpy(), 3 * first.numpy(), rtol=1e-6)


def test_cross_entropy_makes_no_gradient_that_nobody_wants(launched):
    logits = Tensor(np.zeros((3, 5), np.float32), device="cuda-on-cpu", requires_grad=True)
    with no_grad():
        F.cross_entropy(logits, np.zeros(3, int))
    F.cross_entropy(logits.detach(), np.zeros(3, int))
    assert launched == ["cross_entropy_forward", "cross_entropy_reduce"] * 2


def test_cross_entropy_of_each_target_on_the_device(on_cpu):
    logits = np.random.default_rng(0).standard_normal((2, 3, 7), np.float32)
    targets, weights = np.array([[0, 6, 5], [2, 2, 1]]), np.arange(6, dtype=np.float32)
    grads = []
    for device in ("cpu", "cuda-on-cpu"):
        x = Tensor(logits, device=device, requires_grad=True)
        losses = F.cross_entropy(x, targets, "none")
        (losses * Tensor(weights.reshape(2, 3), device=device)).sum().backward()
        grads.append(x.grad.numpy())
    np.testing.assert_allclose(grads[1], grads[0], rtol=1e-5, atol=1e-7)


def residual_layers(device):
    """Return x, and what two layers with residual connections around them give."""
    rng = np.random.default_rng(0)
    x, weight = (Tensor(rng.standard_normal(s, np.float32), device=device) for s in ((3, 5), (5,)))
    x.requires_grad = weight.requires_grad = True
    h = x * 2.0
    return x, weight, h, (h + F.layer_norm(h, weight)).tanh() + F.layer_norm(h, weight)


def test_layernorm_adds_its_gradient_to_what_there_is(on_cpu, monkeypatch):
    addends = []
    backward = on_cpu.kernels[layernorm_backward]

    def noted(*arguments):
        addends.append(arguments[-1])
        return backward(*arguments)

    monkeypatch.setitem(on_cpu.kernels, layernorm_backward, noted)
    results = []
    for device in ("cpu", "cuda-on-cpu"):
        x, weight, h, y = residual_layers(device)
        cotangent = Tensor(np.linspace(-1, 1, 15, dtype=np.float32).reshape(3, 5), device=device)
        seen = []
        h.register_hook(lambda grad, seen=seen: seen.append(grad.numpy()))
        y.backward(cotangent, retain_graph=True)
        y.backward(cotangent)  # added to the same again
        results.append([x.grad.numpy(), weight.grad.numpy(), *seen])
        assert len(seen) == 2
    for mine, expected in zip(results[1], results[0], strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-5, atol=1e-6)
    # The first of the two finds nothing yet; the second what the first and the sum have left.
    assert [each is None for each in addends] == [True, False] * 2
    leaf = Tensor(np.ones((2, 5), np.float32), device="cuda-on-cpu", requires_grad=True)
    (leaf + F.layer_norm(leaf)).backward(Tensor(np.ones((2, 5), np.float32), device="cuda-on-cpu"))
    assert leaf.grad.tolist() == [[1.0] * 5] * 2  # a leaf's gradient is not pending
    assert addends[4:] == [None]


def test_gradients_of_results_have_what_layernorm_adds_to(on_cpu):
    grads = []
    for device in ("cpu", "cuda-on-cpu"):
        x, weight, h, y = residual_layers(device)
        ones = Tensor(np.ones((3, 5), np.float32), device=device)
        grads.append([each.numpy() for each in grad(y, [h, weight, x], ones)])
    for mine, expected in zip(grads[1], grads[0], strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-5, atol=1e-6)


def test_cublas_is_looked_for_on_this_machine():
    try:
        library = cublas.load_library()
    except DeviceError as error:
        pytest.skip(str(error))
    assert len(library.cublasGemmEx.argtypes) == 19


def test_softmax_takes_a_causal_mask_by_its_name(on_cpu):
    y = F.softmax(Tensor(np.zeros((2, 4), np.float32), device="cuda-on-cpu"), mask="causal")
    assert (y.numpy() > 0).tolist() == [[True, True, True, False], [True] * 4]
