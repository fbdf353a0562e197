"""`save` and `load` of state dicts: what comes back, and what is refused."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tinygrad_char as tg
from tinygrad_char import checkpoint, nn, optim
from tinygrad_char.checkpoint import CheckpointError
from tinygrad_char.kernels.backend import DeviceError
from tinygrad_char.random import Generator

safetensors = pytest.importorskip("safetensors.numpy", reason="needs safetensors")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.safetensors"


def same(a, b):
    """Whether two states are equal, kinds, dtypes and orders included; NaN equals NaN."""
    if type(a) is not type(b):
        return False
    if isinstance(a, tg.Tensor):
        return a.device == b.device and same(a.detach().cpu().array, b.detach().cpu().array)
    if isinstance(a, np.ndarray | np.generic):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (a != a and b != b)


def test_a_model_and_its_optimizer_go_on_alike(path):
    def make(seed):
        net = nn.Sequential(nn.Linear(3, 4, generator=Generator(seed)), nn.BatchNorm1d(4))
        return net, optim.AdamW(net.parameters(), lr=0.1)

    def step(net, optimizer, seed):
        optimizer.zero_grad()
        (net(tg.Tensor(np.random.default_rng(seed).random((5, 3), np.float32))) ** 2).mean()
        loss = (net(tg.Tensor(np.random.default_rng(seed).random((5, 3), np.float32))) ** 3).mean()
        loss.backward()
        optimizer.step()
        return loss.item()

    net, optimizer = make(0)
    for seed in range(3):
        step(net, optimizer, seed)
    tg.save(path, {"model": net.state_dict(), "optimizer": optimizer.state_dict(), "step": 3})
    other, other_optimizer = make(1)
    state = tg.load(path)
    other.load_state_dict(state["model"])
    other_optimizer.load_state_dict(state["optimizer"])
    assert state["step"] == 3
    assert step(net, optimizer, 7) == step(other, other_optimizer, 7)
    assert step(net, optimizer, 8) == step(other, other_optimizer, 8)


@pytest.mark.parametrize(
    "dtype", [bool, "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8"]
)
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_every_dtype_and_shape(path, dtype, shape):
    values = (np.random.default_rng(0).random(shape) * 3).astype(dtype)
    state = {
        "tensor": tg.Tensor(values),
        "array": np.array(values),
        "scalar": np.dtype(dtype).type(1),
    }
    tg.save(path, state)
    assert same(tg.load(path), state)


def test_bfloat16(path):
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")
    state = {"w": tg.Tensor(np.array([1.5, -0.0, math.inf, math.nan], ml_dtypes.bfloat16))}
    tg.save(path, state)
    assert same(tg.load(path), state)


def test_nested_values_of_every_kind(path):
    state = {
        "b": {"x": tg.ones(2), 3: [1, -(2**70), 0.1, math.nan, math.inf, -0.0], "": None},
        "a": (True, "text \u20ac \U0001f600", (), [], {}, [{"y": (tg.zeros(()),)}]),
        "betas": (0.9, 0.999),
        "2": 2,
        2: "two",
    }
    tg.save(path, state)
    assert same(tg.load(path), state)


def test_views_strides_and_byte_orders_are_saved_as_what_they_hold(path):
    base = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    for view in (base.T, base[:, ::-1], base[..., 1:3], np.broadcast_to(base[0, 0], (5, 4))):
        tg.save(path, {"tensor": tg.from_numpy(view), "array": view, "swapped": view.astype(">f4")})
        loaded = tg.load(path)
        for each in loaded.values():
            np.testing.assert_array_equal(np.asarray(each), view)
        assert loaded["swapped"].dtype.isnative
        loaded["tensor"].fill_(0)


def test_what_is_shared_is_saved_once_and_stays_shared(path):
    weight, array = tg.ones((1000,)), np.ones(1000)
    view = weight[10:20]
    tg.save(path, {"a": weight, "b": {"tied": weight, "again": weight.detach()}, "c": view})
    size = path.stat().st_size
    assert 4000 < size < 6000
    loaded = tg.load(path)
    assert loaded["a"] is loaded["b"]["tied"]
    loaded["a"].fill_(5)
    assert loaded["b"]["again"].tolist()[0] == 5.0
    assert loaded["c"].tolist() == [1.0] * 10
    tg.save(path, {"x": [array, array]})
    first, second = tg.load(path)["x"]
    assert first is second


def test_names_that_meet_when_joined(path):
    state = {"a.b": tg.ones(1), "a": {"b": tg.zeros(1), "b#2": tg.ones(3)}, "a.b#2": tg.ones(2)}
    tg.save(path, state)
    assert same(tg.load(path), state)


def test_parameters_are_loaded_as_tensors_without_gradient(path):
    parameter = nn.Parameter([1.0])
    parameter.grad = tg.ones(1)
    tg.save(path, {"p": parameter})
    loaded = tg.load(path)["p"]
    assert (type(loaded), loaded.requires_grad, loaded.grad) == (tg.Tensor, False, None)


def test_devices(path):
    try:
        state = {"x": tg.ones(2, device="cuda-on-cpu")}
    except DeviceError as error:
        pytest.skip(str(error))
    tg.save(path, state)
    assert tg.load(path)["x"].device == "cpu"
    assert same(tg.load(path, device="cuda-on-cpu"), state)


def test_other_programs_read_the_tensors_and_theirs_are_read(path):
    model = nn.Linear(2, 3)
    tg.save(path, model.state_dict())
    theirs = safetensors.load_file(path)
    assert list(theirs) == ["bias", "weight"]
    assert theirs["weight"].tolist() == model.weight.tolist()
    safetensors.save_file(theirs, path, {"format": "pt"})
    assert {name: each.tolist() for name, each in tg.load(path).items()} == {
        name: each.tolist() for name, each in theirs.items()
    }
    checkpoint.save(path, theirs, {"config": 1})
    assert tg.load(path)["weight"].tolist() == model.weight.tolist()


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_any_state_comes_back(tmp_path_factory, data):
    plain = (
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
    )
    arrays = hnp.arrays(
        st.sampled_from(["f4", "f8", "i8", "u1", "?"]), hnp.array_shapes(min_dims=0, max_side=3)
    )
    leaves = plain | arrays | arrays.map(tg.Tensor)
    keys = st.text("ab.#", max_size=3) | st.integers(-2, 2)
    values = st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.lists(inner, max_size=3).map(tuple)
            | st.dictionaries(keys, inner, max_size=3)
        ),
        max_leaves=10,
    )
    state = data.draw(st.dictionaries(keys, values, max_size=4))
    path = tmp_path_factory.mktemp("any") / "state"
    tg.save(path, state)
    assert same(tg.load(path), state)


class TestRefused:
    @pytest.mark.parametrize(
        ("state", "message"),
        [
            ({"a": {"b": [1, {2}]}}, r"state\['a'\]\['b'\]\[1\] is a set; expected"),
            ({"a": {1.5: 2}}, r"state\['a'\] has the key 1.5; expected strings and integers"),
            ({"a": nn.ReLU()}, r"state\['a'\] is a ReLU"),
            ({"a": np.array([None])}, "dtype object"),
            ({"a": np.zeros(1, complex)}, "dtype complex128"),
            ({"__metadata__": tg.ones(1)}, "reserved"),
            ({"a": "\ud83d\ude00"}, "surrogates"),
        ],
    )
    def test_what_cannot_be_saved_is_named_and_nothing_is_written(self, path, state, message):
        tg.save(path, {"before": 1})
        with pytest.raises(CheckpointError, match=message):
            tg.save(path, state)
        assert tg.load(path) == {"before": 1}
        assert list(path.parent.iterdir()) == [path]

    def test_a_state_that_holds_itself(self, path):
        state = {}
        state["again"] = state
        with pytest.raises(CheckpointError, match="nests too deeply, or holds itself"):
            tg.save(path, state)
        assert not path.exists()

    def test_arguments_in_the_other_order(self, path):
        with pytest.raises(TypeError, match="the path comes first"):
            tg.save({"a": 1}, path)
        with pytest.raises(TypeError, match="expected a path and a dict"):
            tg.save(path, tg.ones(1))

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (None, "no such file"),
            (b"", "is empty"),
            (b"\x80\x04\x95pickle" + bytes(20), "Nothing in it was executed"),
            (b"PK\x03\x04" + bytes(40), "zip archive"),
        ],
    )
    def test_files_that_are_none(self, path, content, message):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            tg.load(path)

    def test_a_file_that_was_cut_or_altered(self, path):
        tg.save(path, {"a": tg.ones(100), "b": "text"})
        data = path.read_bytes()
        for changed in (data[:-1], data[:50], data[:-3] + b"abc", data.replace(b"text", b"tent")):
            path.write_bytes(changed)
            with pytest.raises(CheckpointError, match="altered"):
                tg.load(path)

    @pytest.mark.parametrize(
        "tree",
        [
            None,
            [],
            5,
            ["tensor", "a"],
            ["value", 3],
            ["dict", [["x", ["tensor", "b"]]]],
            ["dict", [["x", ["tensor", 5]]]],
            ["dict", [["x", ["tensor", "a", "bfloat16"]]]],
            ["dict", [["x", ["scalar", "a"]]]],
            ["dict", [["x", ["value", [1]]]]],
            ["dict", [["x", ["set", []]]]],
            ["dict", [["x"]]],
            ["dict", [[None, ["value", 1]]]],
            ["dict", {"x": ["value", 1]}],
            ["dict", [["x", ["list", "ab"]]]],
            json.loads("[" * 400 + "]" * 400),
        ],
    )
    def test_trees_that_save_does_not_write(self, path, tree):
        checkpoint.save(path, {"a": np.ones(2, np.float32)}, {"kind": "state", "tree": tree})
        with pytest.raises(CheckpointError, match="makes no state"):
            tg.load(path)

    def test_a_device_that_is_none(self, path):
        tg.save(path, {})
        with pytest.raises(DeviceError, match="'tpu'"):
            tg.load(path, device="tpu")
