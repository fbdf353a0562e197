import copy
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_char as tg
from tinygrad_char import functional, nn
from tinygrad_char.random import Generator


def tensor(*shape, seed=0, dtype=np.float32):
    return tg.Tensor(np.random.default_rng(seed).standard_normal(shape).astype(dtype))


class Block(nn.Module):
    def __init__(self, generator=None):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.layers = nn.ModuleList(
            [nn.Linear(4, 4, generator=generator), nn.Sequential(nn.ReLU(), nn.Dropout(0.5))]
        )
        self.scale = nn.Parameter(np.ones(4, np.float32))
        self.head = nn.Linear(4, 4, bias=False, generator=generator)
        self.head.weight = self.layers[0].weight

    def forward(self, x):
        x = self.norm(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(x * self.scale)


PARAMETERS = ["scale", "norm.weight", "norm.bias", "layers.0.weight", "layers.0.bias"]
BUFFERS = ["norm.running_mean", "norm.running_var", "norm.num_batches_tracked"]


def values(module):
    return {name: each.numpy().tolist() for name, each in module.state_dict().items()}


class TestNames:
    def test_parameters_come_in_order_and_a_shared_one_once(self):
        block = Block()
        assert [name for name, _ in block.named_parameters()] == PARAMETERS
        assert [id(p) for p in block.parameters()] == [id(p) for _, p in block.named_parameters()]
        assert block.num_parameters() == 4 + 4 + 4 + 16 + 4

    def test_buffers_and_state(self):
        block = Block()
        assert [name for name, _ in block.named_buffers()] == BUFFERS
        assert list(block.state_dict()) == PARAMETERS + BUFFERS

    def test_modules_and_children(self):
        block = Block()
        names = ["", "norm", "layers", "layers.0", "layers.1", "layers.1.0", "layers.1.1", "head"]
        assert [name for name, _ in block.named_modules()] == names
        assert [name for name, _ in block.children()] == ["norm", "layers", "head"]
        block.again = block.norm
        assert sum(module is block.norm for module in block.modules()) == 1

    def test_deep_nesting_needs_no_recursion(self):
        module = nn.ReLU()
        for _ in range(3000):
            module = nn.Sequential(module)
        assert sum(1 for _ in module.modules()) == 3001


class TestAttributes:
    def test_setting_before_super_init_is_refused(self):
        class Early(nn.Module):
            def __init__(self, value):
                self.size = 3
                self.part = value
                super().__init__()

        for value in (nn.Parameter([1.0]), nn.ReLU()):
            with pytest.raises(AttributeError, match=r"Early: call super\(\).__init__\(\).*'part'"):
                Early(value)
        assert Early(5).size == 3

    def test_a_parameter_put_in_another_s_place_keeps_the_order(self):
        layer = nn.Linear(2, 2)
        layer.weight = replacement = nn.Parameter(np.ones((2, 2), np.float32))
        assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]
        assert next(layer.parameters()) is replacement

    def test_a_plain_tensor_in_a_parameter_s_place_is_refused(self):
        layer = nn.Linear(2, 2)
        with pytest.raises(TypeError, match=r"Linear: 'weight' is a parameter.*copy_"):
            layer.weight = tg.zeros((2, 2))
        assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]

    def test_none_and_del_take_a_parameter_away(self):
        layer = nn.Linear(2, 2)
        layer.bias = None
        assert [name for name, _ in layer.named_parameters()] == ["weight"]
        assert repr(layer) == "Linear(2, 2, bias=False)"
        del layer.weight
        assert list(layer.named_parameters()) == []
        with pytest.raises(AttributeError, match="weight"):
            layer(tensor(1, 2))

    def test_a_tensor_in_a_buffer_s_place_stays_a_buffer(self):
        norm = nn.BatchNorm1d(2)
        norm.running_mean = tg.ones(2)
        assert [name for name, _ in norm.named_buffers()] == [
            "running_mean",
            "running_var",
            "num_batches_tracked",
        ]
        assert norm.state_dict()["running_mean"].tolist() == [1.0, 1.0]

    def test_a_plain_tensor_is_neither_parameter_nor_buffer(self):
        module = nn.ReLU()
        module.cache = tg.ones(2)
        assert module.state_dict() == {}

    def test_a_kind_gives_way_to_another(self):
        module = nn.Module()
        module.x = nn.ReLU()
        module.x = nn.Parameter([1.0])
        assert list(module.children()) == []
        assert [name for name, _ in module.named_parameters()] == ["x"]

    @pytest.mark.parametrize("value", [np.ones(2), None, nn.Parameter([1.0])])
    def test_only_plain_tensors_are_buffers(self, value):
        with pytest.raises(TypeError, match=r"buffer 'x' is a .*expected a tensor"):
            nn.Module().register_buffer("x", value)

    def test_a_module_without_forward_says_so(self):
        with pytest.raises(NotImplementedError, match="Module defines no forward"):
            nn.Module()(1)


class TestModes:
    def test_train_and_eval_reach_every_part(self):
        block = Block()
        assert all(module.training for module in block.modules())
        assert block.eval() is block
        assert not any(module.training for module in block.modules())
        block.train()
        assert all(module.training for module in block.modules())

    def test_zero_grad(self):
        block = Block()
        block(tensor(3, 4)).sum().backward()
        assert all(p.grad is not None for p in block.parameters())
        block.zero_grad()
        assert all(p.grad is None for p in block.parameters())


class TestState:
    def test_round_trip(self):
        source, target = Block(Generator(0)), Block(Generator(1))
        source(tensor(5, 4))
        assert values(source) != values(target)
        target.load_state_dict(source.state_dict())
        assert values(source) == values(target)
        x = tensor(5, 4, seed=3)
        assert source.eval()(x).tolist() == target.eval()(x).tolist()
        assert not np.shares_memory(source.scale.array, target.scale.array)

    def test_arrays_load_as_well(self):
        source, target = Block(Generator(0)), Block(Generator(1))
        target.load_state_dict({name: t.numpy() for name, t in source.state_dict().items()})
        assert values(source) == values(target)

    def test_state_shares_memory_and_is_not_trained(self):
        layer = nn.Linear(2, 2)
        state = layer.state_dict()
        assert state["weight"].array is layer.weight.array
        assert not state["weight"].requires_grad

    def test_the_strict_error_lists_every_difference_and_changes_nothing(self):
        block = Block()
        before = values(block)
        state = {name: np.zeros(t.shape, t.dtype) for name, t in block.state_dict().items()}
        del state["norm.bias"], state["norm.running_var"]
        state["scale"] = np.zeros(5, np.float32)
        state["layers.0.weight"] = np.zeros((4, 4))
        state["tail.weight"] = np.zeros(3)
        with pytest.raises(ValueError, match="5 difference") as error:
            block.load_state_dict(state)
        lines = str(error.value).splitlines()
        assert lines[0] == "load_state_dict: 5 difference(s) from this Block:"
        assert sorted(line.split() for line in lines[1:]) == sorted(
            line.split()
            for line in [
                "missing norm.bias (4,)",
                "missing norm.running_var (4,)",
                "unexpected tail.weight (3,)",
                "different scale: given (5,) float32, expected (4,) float32",
                "different layers.0.weight: given (4, 4) float64, expected (4, 4) float32",
            ]
        )
        assert values(block) == before

    def test_without_strict_only_names_may_differ(self):
        layer = nn.Linear(2, 2)
        layer.load_state_dict({"bias": np.ones(2, np.float32), "other": np.ones(1)}, strict=False)
        assert layer.bias.tolist() == [1.0, 1.0]
        with pytest.raises(ValueError, match="different   bias"):
            layer.load_state_dict({"bias": np.ones(3, np.float32)}, strict=False)

    def test_arrays_of_another_byte_order_are_converted(self):
        layer = nn.Linear(2, 1)
        layer.load_state_dict({"weight": np.array([[1, 2]], ">f4"), "bias": np.array([3], ">f4")})
        assert layer.weight.tolist() == [[1, 2]]
        assert layer.bias.tolist() == [3]

    def test_loading_counts_as_a_change_in_place(self):
        layer = nn.Linear(2, 2)
        y = layer(nn.Parameter(np.ones((1, 2), np.float32)))
        layer.load_state_dict(nn.Linear(2, 2).state_dict())
        with pytest.raises(RuntimeError, match="backward through linear"):
            y.sum().backward()


class TestConversion:
    def test_astype_converts_parameters_and_floating_buffers(self):
        block = Block()
        block(tensor(3, 4)).sum().backward()
        weight = block.layers[0].weight
        assert block.astype(np.float64) is block
        state = block.state_dict()
        assert {t.dtype for name, t in state.items() if name != BUFFERS[2]} == {
            np.dtype(np.float64)
        }
        assert state[BUFFERS[2]].dtype == np.int64
        assert block.layers[0].weight is block.head.weight is weight
        assert weight.grad is None
        assert block(tensor(3, 4, dtype=np.float64)).dtype == np.float64

    def test_astype_to_the_same_dtype_changes_nothing(self):
        layer = nn.Linear(2, 2)
        array = layer.weight.array
        layer(tensor(1, 2)).sum().backward()
        layer.astype("float32")
        assert layer.weight.array is array
        assert layer.weight.grad is not None

    def test_astype_to_integers_is_refused(self):
        with pytest.raises(TypeError, match=r"astype\(int64\): parameters are floating"):
            nn.Linear(2, 2).astype(int)

    def test_to(self):
        layer = nn.Linear(2, 2)
        assert layer.to("cpu") is layer
        assert layer.weight.device == "cpu"
        with pytest.raises(tg.DeviceError, match="unknown device 'tpu'"):
            layer.to("tpu")


class TestDeepCopy:
    def test_copies_parameters_buffers_and_sharing(self):
        block = Block()
        twin = copy.deepcopy(block)
        assert values(twin) == values(block)
        assert [name for name, _ in twin.named_parameters()] == PARAMETERS
        assert twin.head.weight is twin.layers[0].weight
        assert isinstance(twin.scale, nn.Parameter)
        twin.scale.data.fill_(3)
        twin.norm.running_mean.fill_(3)
        assert block.scale.tolist() == [1.0] * 4
        assert block.norm.running_mean.tolist() == [0.0] * 4

    def test_attention_and_dropout_go_on_drawing_from_the_same_generator(self):
        generator = Generator(0)
        attention = nn.SelfAttention(4, 2, dropout=0.5, generator=generator)
        dropout = nn.Dropout(0.5, generator=generator)
        x = tensor(1, 3, 4)
        results = [copy.deepcopy(each)(x).tolist() for each in [attention, dropout] * 2]
        assert results[0] != results[2]
        assert results[1] != results[3]


class TestRepr:
    def test_nested(self):
        assert repr(Block()) == "\n".join(
            [
                "Block(",
                "  (norm): BatchNorm1d(4, eps=1e-05, momentum=0.1)",
                "  (layers): ModuleList(",
                "    (0): Linear(4, 4)",
                "    (1): Sequential(",
                "      (0): ReLU()",
                "      (1): Dropout(p=0.5)",
                "    )",
                "  )",
                "  (head): Linear(4, 4, bias=False)",
                ")",
            ]
        )

    @pytest.mark.parametrize(
        ("module", "text"),
        [
            (nn.Embedding(5, 3), "Embedding(5, 3)"),
            (nn.Linear(2, 3, activation="gelu"), "Linear(2, 3, activation='gelu')"),
            (
                nn.ResidualLinear(2, 3, False, dropout=0.1),
                "ResidualLinear(2, 3, bias=False, dropout=0.1)",
            ),
            (nn.LayerNorm(5), "LayerNorm(5)"),
            (nn.LayerNorm(5, bias=False), "LayerNorm(5, bias=False)"),
            (nn.LayerNorm(5, elementwise_affine=False), "LayerNorm(5, elementwise_affine=False)"),
            (
                nn.BatchNorm1d(5, affine=False),
                "BatchNorm1d(5, eps=1e-05, momentum=0.1, affine=False)",
            ),
            (nn.GELU("tanh"), "GELU(approximate='tanh')"),
            (nn.Sequential(), "Sequential()"),
        ],
    )
    def test_layers(self, module, text):
        assert repr(module) == text

    def test_attention(self):
        lines = repr(nn.CausalSelfAttention(8, 2, dropout=0.1)).splitlines()
        assert lines[0] == "CausalSelfAttention(n_head=2, dropout=0.1"
        assert lines[1] == "  (qkv): Linear(8, 24, bias=False)"
        assert lines[2] == "  (projection): ResidualLinear(8, 8, dropout=0.1)"


class TestInitialisation:
    @pytest.mark.parametrize("in_features", [1, 7, 64, 1000])
    def test_linear_is_uniform_up_to_the_bound(self, in_features):
        layer = nn.Linear(in_features, 200_000 // in_features, generator=Generator(0))
        bound = float(np.float32(1 / math.sqrt(in_features)))
        for values in (layer.weight.array.ravel(), layer.bias.array):
            assert abs(values).max() <= bound
            assert abs(values).max() > bound * (1 - 10 / len(values))
            assert values.mean() == pytest.approx(0, abs=5 * bound / math.sqrt(3 * len(values)))
            assert values.std() == pytest.approx(
                bound / math.sqrt(3), rel=3 / math.sqrt(len(values))
            )
        quarters = np.histogram(layer.weight.array, 4, (-bound, bound))[0]
        assert abs(quarters - quarters.sum() / 4).max() < 5 * math.sqrt(quarters.sum() / 4)

    def test_embedding_is_standard_normal(self):
        values = nn.Embedding(1000, 200, generator=Generator(0)).weight.array
        assert values.mean() == pytest.approx(0, abs=5 / math.sqrt(values.size))
        assert values.std() == pytest.approx(1, abs=5 / math.sqrt(2 * values.size))
        assert (abs(values) < 1).mean() == pytest.approx(0.6827, abs=0.01)

    def test_norms_start_as_the_plain_normalisation(self):
        for norm in (nn.LayerNorm(3), nn.BatchNorm1d(3)):
            assert norm.weight.tolist() == [1.0] * 3
            assert norm.bias.tolist() == [0.0] * 3

    @pytest.mark.parametrize("without", ["weight", "bias"])
    @pytest.mark.parametrize("make", [nn.LayerNorm, nn.BatchNorm1d])
    def test_norms_use_the_parameter_that_they_have(self, make, without):
        x = tg.Tensor(np.random.default_rng(0).standard_normal((4, 3)).astype("f4"))
        plain, norm = make(3), make(3)
        norm.weight.array[...] = [2, 3, 4]
        norm.bias.array[...] = [5, 6, 7]
        setattr(norm, without, None)
        expected = plain(x) + norm.bias if without == "weight" else plain(x) * norm.weight
        y = norm(x)
        np.testing.assert_allclose(y.detach().numpy(), expected.detach().numpy(), rtol=1e-5)
        y.sum().backward()
        given = norm.bias if without == "weight" else norm.weight
        assert given.grad.shape == (3,)

    @pytest.mark.parametrize("name", ["qkv", "projection"])
    def test_attention_starts_as_its_linear_layers(self, name):
        weight = getattr(nn.SelfAttention(256, 4), name).weight.array
        assert abs(weight).max() <= np.float32(1 / 16)
        assert weight.std() == pytest.approx(1 / 16 / math.sqrt(3), rel=0.02)


class TestDropout:
    @given(st.floats(0, 1), st.integers(0, 2**32))
    @settings(deadline=None, max_examples=40)
    def test_drops_with_the_probability_and_scales_the_rest(self, p, seed):
        layer = nn.Dropout(p, generator=Generator(seed))
        x = tg.Tensor(np.full(20_000, 4.0), requires_grad=True)
        y = layer(x)
        y.sum().backward()
        result = y.detach().numpy()
        kept = result != 0
        assert kept.mean() == pytest.approx(1 - p, abs=6 * math.sqrt(p * (1 - p) / 20_000) + 1e-4)
        if kept.any():
            scale = result[kept] / 4
            assert scale.min() == scale.max() == pytest.approx(1 / (1 - p), rel=2**-16 / (1 - p))
        np.testing.assert_array_equal(x.grad.numpy(), result / 4)

    def test_evaluation_returns_x_itself(self):
        x = tensor(5)
        assert nn.Dropout(0.5).eval()(x) is x
        assert nn.Dropout(0.0)(x) is x

    @pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
    def test_a_bad_probability_is_refused(self, p):
        for make in (
            nn.Dropout,
            lambda p: nn.SelfAttention(4, 2, dropout=p),
            lambda p: nn.ResidualLinear(4, 2, dropout=p),
        ):
            with pytest.raises(ValueError, match="expected a number from 0 to 1"):
                make(p)


class TestContainers:
    def test_sequential(self):
        a, b, c = nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)
        model = nn.Sequential(a, b, c)
        assert list(model) == [a, b, c]
        assert len(model) == 3
        assert model[-1] is c
        x = tensor(4, 2)
        assert model(x).tolist() == c(b(a(x))).tolist()

    def test_more_than_ten_parts_stay_in_order(self):
        parts = [nn.ReLU() for _ in range(12)]
        assert list(nn.Sequential(*parts)) == parts
        assert list(nn.ModuleList(parts)) == parts

    def test_module_list(self):
        parts = nn.ModuleList()
        first = nn.Linear(1, 1)
        assert parts.append(first).append(nn.ReLU()) is parts
        assert parts[0] is first
        assert [name for name, _ in parts.named_parameters()] == ["0.weight", "0.bias"]

    @pytest.mark.parametrize("value", [tg.functional.relu, nn.ReLU, None])
    def test_only_modules_are_held(self, value):
        with pytest.raises(TypeError, match="Sequential: expected modules, got "):
            nn.Sequential(nn.ReLU(), value)
        with pytest.raises(TypeError, match="ModuleList: expected modules, got "):
            nn.ModuleList([value])


class TestBadInput:
    @pytest.mark.parametrize("size", [0, -1, 2.0, True, "3"])
    @pytest.mark.parametrize(
        "make",
        [
            lambda n: nn.Linear(n, 2),
            lambda n: nn.Linear(2, n),
            lambda n: nn.ResidualLinear(n, 2),
            lambda n: nn.Embedding(n, 2),
            nn.LayerNorm,
            nn.BatchNorm1d,
            lambda n: nn.SelfAttention(n, 1),
            lambda n: nn.CrossAttention(4, n),
        ],
    )
    def test_sizes_are_whole_numbers(self, make, size):
        with pytest.raises(ValueError, match=f"{size!r}, expected an integer of at least 1"):
            make(size)

    @pytest.mark.parametrize("layer", [nn.SelfAttention, nn.CausalSelfAttention, nn.CrossAttention])
    def test_heads_share_the_channels(self, layer):
        with pytest.raises(ValueError, match=f"{layer.__name__}: n_embd=6 is not divisible by n_h"):
            layer(6, 4)

    def test_linear_knows_three_activations(self):
        with pytest.raises(ValueError, match=r"Linear: activation='tanh', expected one of .*relu"):
            nn.Linear(2, 3, activation="tanh")

    def test_gelu_knows_two_formulas(self):
        with pytest.raises(ValueError, match="approximate='fast'"):
            nn.GELU("fast")

    @pytest.mark.parametrize("shape", [(3,), (2, 4), (2, 4, 3), (2, 3, 1, 1)])
    def test_batch_norm_names_the_shape(self, shape):
        with pytest.raises(ValueError, match=r"BatchNorm1d\(3\): x has shape"):
            nn.BatchNorm1d(3)(tensor(*shape))

    def test_batch_norm_needs_two_values(self):
        with pytest.raises(ValueError, match=r"shape \(1, 3\) holds one value for each feature"):
            nn.BatchNorm1d(3)(tensor(1, 3))
        assert nn.BatchNorm1d(3).eval()(tensor(1, 3)).shape == (1, 3)

    def test_layer_norm_names_the_shape(self):
        with pytest.raises(ValueError, match=r"LayerNorm\(3\): x has shape \(2, 4\)"):
            nn.LayerNorm(3)(tensor(2, 4))

    def test_linear_names_the_shapes(self):
        with pytest.raises(ValueError, match=r"linear: x \(2, 4\) and weight \(5, 3\)"):
            nn.Linear(3, 5)(tensor(2, 4))

    @pytest.mark.parametrize("index", [-1, 4])
    def test_embedding_names_the_index(self, index):
        with pytest.raises(IndexError, match=f"position \\(1,\\) is {index}, expected .* 0 to 3"):
            nn.Embedding(4, 2)(np.array([0, index]))

    def test_attention_names_the_shapes(self):
        with pytest.raises(ValueError, match=r"CrossAttention: x \(2, 4\).*expected \(B, T, C\)"):
            nn.CrossAttention(4, 2)(tensor(2, 4), tensor(1, 2, 4))
        with pytest.raises(ValueError, match=r"CrossAttention: .*context \(3, 5, 4\)"):
            nn.CrossAttention(4, 2)(tensor(2, 5, 4), tensor(3, 5, 4))


class TestCache:
    @pytest.mark.parametrize("lengths", [[1] * 6, [6], [3, 1, 2], [5, 1]])
    def test_cached_causal_attention_equals_the_whole(self, lengths):
        layer = nn.CausalSelfAttention(8, 2, generator=Generator(0)).astype(np.float64).eval()
        x = tensor(3, 6, 8, dtype=np.float64)
        cache = nn.KeyValueCache(6)
        parts, start = [], 0
        with tg.no_grad():
            whole = layer(x)
            for length in lengths:
                parts.append(layer(x[:, start : start + length], cache))
                start += length
        np.testing.assert_allclose(tg.cat(parts, 1).numpy(), whole.numpy(), rtol=0, atol=1e-14)
        assert cache.length == 6

    @pytest.mark.parametrize("lengths", [[1] * 6, [6], [3, 1, 2]])
    def test_a_cached_convolution_equals_the_whole(self, lengths):
        layer = nn.CausalConvolution(8)
        layer.weight.data = tensor(4, 8)
        x, cache = tensor(3, 6, 8), nn.ConvolutionCache(4)
        with tg.no_grad():
            for _ in range(2):  # a length of 0 forgets what was before
                cache.length = 0
                parts = [layer(part, cache) for part in x.split(lengths, 1)]
                assert tg.cat(parts, 1).tolist() == layer(x).tolist()
        assert cache.length == 6
        with pytest.raises(ValueError, match="length=-1, expected an integer from 0 on"):
            cache.length = -1

    def test_a_convolution_says_what_does_not_fit(self):
        layer, x = nn.CausalConvolution(8, taps=3), tensor(2, 5, 8)
        assert layer(x).tolist() == x.tolist()  # with the weights that it starts with
        assert repr(layer) == "CausalConvolution(8, taps=3)"
        with pytest.raises(ValueError, match=r"x \(2, 5, 7\), weight \(3, 8\); expected"):
            layer(tensor(2, 5, 7))
        with pytest.raises(ValueError, match="cache for 4 taps"), tg.no_grad():
            layer(x, nn.ConvolutionCache(4))
        with pytest.raises(RuntimeError, match=r"cache keeps no history.*no_grad\(\)"):
            layer(x, nn.ConvolutionCache(3))
        with pytest.raises(ValueError, match="taps=0"):
            nn.CausalConvolution(8, taps=0)

    @pytest.mark.parametrize("options", [{"rotary": True}, {"qk_norm": True, "rotary": True}])
    def test_turned_positions_continue_in_a_cache(self, options):
        layer = nn.CausalSelfAttention(8, 2, **options).astype(np.float64).eval()
        x, cache = tensor(2, 7, 8).astype(np.float64), nn.KeyValueCache(9)
        with tg.no_grad():
            whole = layer(x).numpy()
            for _ in range(2):
                cache.length = 0
                parts = [layer(part, cache) for part in x.split([3, 1, 2, 1], 1)]
                np.testing.assert_allclose(tg.cat(parts, 1).numpy(), whole, rtol=0, atol=1e-14)
            moved = layer(tg.cat([x[:, 1:], x[:, :1]], 1)).numpy()
        assert abs(moved[:, :6] - whole[:, 1:]).max() > 1e-3
        assert repr(layer).startswith(
            f"CausalSelfAttention(n_head=2, rotary{', qk_norm' * (len(options) > 1)}"
        )

    def test_heads_that_cannot_be_turned_in_pairs_are_refused(self):
        with pytest.raises(ValueError, match="2 heads of 3 channels cannot be turned"):
            nn.CausalSelfAttention(6, 2, rotary=True)
        with pytest.raises(ValueError, match="2 heads of 3 channels cannot be turned or normal"):
            nn.CausalSelfAttention(6, 2, qk_norm=True)
        with pytest.raises(ValueError, match="heads of 3 channels cannot be turned or normalized"):
            functional.self_attention(tensor(1, 2, 18), 2, normalize=True)

    def test_a_full_cache_says_so(self):
        cache, layer = nn.KeyValueCache(3), nn.CausalSelfAttention(8, 2)
        with tg.no_grad():
            layer(tensor(1, 2, 8), cache)
            with pytest.raises(ValueError, match="cache of 3 positions cannot hold 4"):
                layer(tensor(1, 2, 8), cache)
        assert cache.length == 2

    @pytest.mark.parametrize("length", [-1, 4])
    def test_a_length_beyond_the_capacity_is_refused(self, length):
        cache = nn.KeyValueCache(3)
        with pytest.raises(ValueError, match=f"length={length}, expected an integer from 0 to 3"):
            cache.length = length
        assert cache.length == 0

    def test_recorded_operations_refuse_a_cache(self):
        layer = nn.CausalSelfAttention(8, 2)
        with pytest.raises(RuntimeError, match=r"cache keeps no history.*no_grad\(\)"):
            layer(tensor(1, 2, 8), nn.KeyValueCache(4))


@pytest.mark.parametrize(
    ("activation", "layer"),
    [("relu", nn.ReLU()), ("gelu", nn.GELU()), ("gelu_tanh", nn.GELU("tanh"))],
)
def test_a_linear_layer_with_activation_equals_the_two_layers(activation, layer):
    both = nn.Linear(5, 3, activation=activation)
    linear = nn.Linear(5, 3)
    linear.load_state_dict(both.state_dict())
    x = tensor(2, 4, 5)
    assert both(x).tolist() == layer(linear(x)).tolist()


@pytest.mark.parametrize("p", [0.0, 0.4])
def test_residual_linear_equals_its_parts_and_drops_in_training_only(p):
    layer = nn.ResidualLinear(5, 3, dropout=p, generator=Generator(0))
    linear = nn.Linear(5, 3)
    linear.load_state_dict(layer.state_dict())
    dropout = nn.Dropout(p, generator=Generator(0))
    x, residual = tensor(2, 4, 5), tensor(2, 4, 3)
    assert layer(x, residual).tolist() == (residual + dropout(linear(x))).tolist()
    assert layer(x).tolist() == dropout(linear(x)).tolist()
    layer.eval()
    assert layer(x, residual).tolist() == (residual + linear(x)).tolist()
    assert layer(x).tolist() == linear(x).tolist()


@pytest.mark.parametrize("p", [0.0, 0.5])
def test_attention_adds_to_the_residual(p):
    layers = [nn.CausalSelfAttention(8, 2, dropout=p, generator=Generator(0)) for _ in range(2)]
    x, residual = tensor(2, 4, 8), tensor(2, 4, 8)
    assert layers[0](x, residual=residual).tolist() == (residual + layers[1](x)).tolist()


def test_attention_dropout_is_for_training():
    layer = nn.CausalSelfAttention(8, 2, dropout=0.5, generator=Generator(0))
    x = tensor(2, 4, 8)
    assert layer(x).tolist() != layer(x).tolist()
    layer.eval()
    plain = nn.CausalSelfAttention(8, 2)
    plain.load_state_dict(layer.state_dict())
    assert layer(x).tolist() == layer(x).tolist() == plain(x).tolist()


@pytest.mark.parametrize("make", [nn.SelfAttention, nn.CausalSelfAttention])
def test_gradients_with_dropout_are_those_of_the_mask_that_was_drawn(make):
    generator = Generator(0)
    layer = make(4, 2, dropout=0.4, generator=generator).astype(np.float64)
    state = generator.get_state()

    def fn(x, *parameters):
        generator.set_state(state)
        return layer(x)

    x = tensor(2, 3, 4, dtype=np.float64).requires_grad_()
    tg.gradcheck(fn, [x, *layer.parameters()])
