"""PyTorch's random streams, digit for digit, without PyTorch.

A run that was published with its seed can be replayed if the same numbers are drawn in the same
order. `TorchGenerator` draws what PyTorch's CPU generator draws: the words of the Mersenne Twister
MT19937 (Matsumoto and Nishimura 1998), and from them integers, uniform and normal numbers,
exponential numbers, choices and dropout masks. It takes the place of `random.Generator` in layers,
batches and sampling; then all uses share one stream, as in PyTorch.

Choices (`multinomial`), `exponential` and `bernoulli` differ between builds of PyTorch, so a
generator is told which one it follows:

- "default": CPU builds since 2.7, and builds without Intel's MKL;
- "mkl": x86 builds of about 1.13 to 2.6, which seed MKL's MCG31 with one word for each call;
- "cuda": choices among tensors on a GPU, from a counter of their own (Philox4x32-10, Salmon et
  al. 2011); all else as "default".
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import numpy as np

from tinygrad_char.random import check_seed

Build = Literal["default", "mkl", "cuda"]
Shape = int | tuple[int, ...] | None

MCG31_MODULUS = (1 << 31) - 1
MCG31_MULTIPLIER = 1132489760
SMALLEST_NORMAL = np.float32(1.1754944e-38)


class DropoutMask:
    """The mask of one dropout call, drawn when it is first asked for and kept for backward.

    Stands where a `DropoutKey` stands. PyTorch multiplies by mask / float32(1 - p).
    """

    def __init__(self, generator: TorchGenerator) -> None:
        self._generator = generator
        self._masks: dict[int, np.ndarray] = {}

    def keep_mask(self, shape: tuple[int, ...], p: float, block: int) -> np.ndarray:
        """Return the boolean mask of a block of this call."""
        if block not in self._masks:
            self._masks[block] = self._generator.bernoulli(1 - p, shape) == 1
        return self._masks[block]


class TorchGenerator:
    """The generator of `torch.manual_seed(seed)` on a CPU.

    Parameters
    ----------
    seed
        A whole number from 0 to 2^64 - 1; as in PyTorch, the twister takes its low 32 bits.
    build
        Which PyTorch's choices to follow: "default", "mkl" or "cuda".
    exact
        Whether float32 normal numbers are PyTorch's to the last bit, with its polynomials and
        fused multiply-adds (about ten times slower), or to a few units in the last place.
    """

    def __init__(self, seed: int, build: Build = "default", *, exact: bool = True) -> None:
        if build not in get_args(Build):
            raise ValueError(f"build is {build!r}; expected one of {', '.join(get_args(Build))}")
        self.build, self.exact = build, exact
        self.manual_seed(seed)

    def manual_seed(self, seed: int) -> TorchGenerator:
        """Start again from a seed and return self."""
        self.seed = check_seed(seed)
        self._twister = np.random.RandomState(self.seed & 0xFFFFFFFF)
        self._second_normal: float | None = None
        self._counter = 0  # of the "cuda" stream
        return self

    # One stream for every use

    @property
    def init(self) -> TorchGenerator:
        """The stream of initial weights: this one."""
        return self

    batches = dropout = sampling = init

    # Words and uniform numbers

    def words(self, count: int) -> np.ndarray:
        """Return the next 32-bit words, uint32 (count,)."""
        return np.frombuffer(self._twister.bytes(4 * count), "<u4")

    def _words64(self, count: int) -> np.ndarray:
        pairs = self.words(2 * count).astype(np.uint64).reshape(-1, 2)
        return (pairs[:, 0] << np.uint64(32)) | pairs[:, 1]

    def _uniform53(self, count: int) -> np.ndarray:
        return (self._words64(count) & np.uint64((1 << 53) - 1)) * 2.0**-53

    def integers(self, low: int, high: int, size: Shape = None) -> Any:
        """Return int64 numbers from low to below high, as `torch.randint`."""
        span = high - low
        if span < 1:
            raise ValueError(f"integers from {low} to below {high}: the range is empty")
        count = _count(size)
        words: np.ndarray = self.words(count) if span < 1 << 28 else self._words64(count)
        values = words % words.dtype.type(span)
        return _shaped(low + values.astype(np.int64), size)

    def rand(self, shape: Shape = None, dtype: Any = np.float32) -> Any:
        """Return numbers uniform in [0, 1), as `torch.rand`: float32 (24 bits) or float64 (53)."""
        count = _count(shape)
        if np.dtype(dtype) == np.float64:
            return _shaped(self._uniform53(count), shape)
        bits = self.words(count) & np.uint32(0xFFFFFF)
        return _shaped(bits.astype(np.float32) * np.float32(2.0**-24), shape)

    def uniform(self, low: float, high: float, shape: Shape = None) -> Any:
        """Return float32 numbers uniform in [low, high), as `tensor.uniform_(low, high)`."""
        low32, high32 = np.float32(low), np.float32(high)
        values = _fma(self.rand(_count(shape)), high32 - low32, low32)
        values[values == high32] = low32
        return _shaped(values, shape)

    # Normal numbers

    def randn(self, shape: Shape = None, dtype: Any = np.float32) -> Any:
        """Return standard normal numbers, as `torch.randn`."""
        return self.normal(0.0, 1.0, shape, dtype)

    def normal(self, mean: float, std: float, shape: Shape = None, dtype: Any = np.float32) -> Any:
        """Return normal numbers, as `tensor.normal_(mean, std)`.

        By the method of Box and Muller (1958): fewer than 16 numbers in pairs of which the second
        is kept for the next call, 16 or more in groups of 16. Where they do not fill the last
        group, 16 more uniform numbers are drawn and the last 16 results made from them.
        """
        count = _count(shape)
        dtype = np.dtype(dtype)
        if count < 16:
            pairs = np.array([self._next_normal() for _ in range(count)])
            return _shaped((pairs * std + mean).astype(dtype), shape)
        uniform = np.array(self.rand(count, dtype))
        whole = count - count % 16
        result = np.empty(count, dtype)
        result[:whole] = self._groups(uniform[:whole], mean, std)
        if whole < count:
            result[-16:] = self._groups(self.rand(16, dtype), mean, std)
        return _shaped(result, shape)

    def _next_normal(self) -> float:
        if self._second_normal is not None:
            value, self._second_normal = self._second_normal, None
            return value
        u1, u2 = self._uniform53(2).tolist()
        radius = math.sqrt(-2 * math.log1p(-u2))
        self._second_normal = radius * math.sin(2 * math.pi * u1)
        return radius * math.cos(2 * math.pi * u1)

    def _groups(self, uniform: np.ndarray, mean: float, std: float) -> np.ndarray:
        groups = uniform.reshape(-1, 2, 8)
        u1, u2 = 1 - groups[:, 0], groups[:, 1]
        exact = self.exact and uniform.dtype == np.float32
        angle = u2 * uniform.dtype.type(2 * math.pi)
        if exact:
            radius = np.sqrt(np.float32(-2) * _log(u1))
            sine, cosine = _sine_and_cosine(angle)
        else:
            radius = np.sqrt(-2 * np.log(u1))
            sine, cosine = np.sin(angle), np.cos(angle)
        normal = np.stack([radius * cosine, radius * sine], axis=1)
        if exact:
            return _fma(normal, np.float32(std), np.float32(mean)).reshape(-1)
        return (normal * uniform.dtype.type(std) + uniform.dtype.type(mean)).reshape(-1)

    # Exponential numbers, choices, dropout

    def exponential(self, shape: Shape = None, rate: float = 1.0) -> Any:
        """Return float32 exponential numbers, as `tensor.exponential_(rate)`."""
        count = _count(shape)
        if self.build == "mkl":
            drawn = -np.log(self._mcg31(count)) / rate
            values = drawn.astype(np.float32) + SMALLEST_NORMAL
        elif self.build == "cuda":
            values = self._cuda_exponential(count, rate)
        else:
            values = (-1 / rate * np.log1p(-self._uniform53(count))).astype(np.float32)
        return _shaped(values, shape)

    def multinomial(self, probabilities: np.ndarray) -> np.ndarray:
        """Return for each row of probabilities (N, V) one index, as `torch.multinomial(p, 1)`.

        The index of the largest p / q, q exponential: the exponential race.
        """
        p = np.asarray(probabilities, np.float32)
        with np.errstate(divide="ignore", invalid="ignore"):
            return (p / self.exponential(p.shape)).argmax(axis=-1)

    def bernoulli(self, p: float, shape: Shape = None) -> Any:
        """Return float32 ones with probability p, else zeros, as `tensor.bernoulli_(p)`."""
        count = _count(shape)
        uniform = self._mcg31(count) if self.build == "mkl" else self._uniform53(count)
        return _shaped((uniform < p).astype(np.float32), shape)

    def dropout_key(self) -> DropoutMask:
        """Return what draws the mask of the next dropout call, as `torch.nn.functional.dropout`."""
        return DropoutMask(self)

    def _mcg31(self, count: int) -> np.ndarray:
        """Return MKL's uniform numbers, float64, from one word; x_0 is the word itself."""
        state = int(self.words(1)[0]) % MCG31_MODULUS or 1
        powers = _mcg31_powers(count)
        # Both factors are below 2^31, so the product fits into 64 bits.
        return (powers * np.uint64(state) % np.uint64(MCG31_MODULUS)) / MCG31_MODULUS

    def _cuda_exponential(self, count: int, rate: float) -> np.ndarray:
        word = _philox_first_word(self.seed, self._counter, count)
        self._counter += 1
        uniform = word.astype(np.float32) * np.float32(2.0**-32) + np.float32(2.0**-33)
        # The last step below 1 is where its logarithm would round to nothing.
        logarithm = np.where(uniform >= 1 - 2.0**-24, -np.float32(2.0**-24), np.log(uniform))
        return (-1 / rate * logarithm).astype(np.float32)

    # State

    def get_state(self) -> dict[str, Any]:
        """Return the state as plain integers, lists and strings."""
        state: Any = self._twister.get_state(legacy=False)
        return {
            "build": self.build,
            "seed": self.seed,
            "words": state["state"]["key"].tolist(),
            "position": int(state["state"]["pos"]),
            "second_normal": self._second_normal,
            "counter": self._counter,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on exactly where the generator stood whose state this is."""
        self.build, self.seed = state["build"], state["seed"]
        key = np.array(state["words"], np.uint32)
        self._twister.set_state(("MT19937", key, state["position"], 0, 0.0))
        self._second_normal, self._counter = state["second_normal"], state["counter"]


def _count(shape: Shape) -> int:
    return 1 if shape is None else math.prod((shape,) if isinstance(shape, int) else shape)


def _shaped(values: np.ndarray, shape: Shape) -> Any:
    return values[0] if shape is None else values.reshape(shape)


_powers = np.ones(1, np.uint64)


def _mcg31_powers(count: int) -> np.ndarray:
    """Return multiplier^k modulo 2^31 - 1 for k = 0 .. count - 1, by doubling."""
    global _powers
    powers = _powers
    while len(powers) < count:
        step = pow(MCG31_MULTIPLIER, len(powers), MCG31_MODULUS)
        powers = np.concatenate([powers, powers * np.uint64(step) % np.uint64(MCG31_MODULUS)])
    _powers = powers
    return powers[:count]


def _philox_first_word(seed: int, counter: int, count: int) -> np.ndarray:
    """Return the first word of Philox4x32-10 for counters (counter, i), i = 0 .. count - 1."""
    low = np.uint64(0xFFFFFFFF)
    shift = np.uint64(32)
    words = [
        np.full(count, counter & 0xFFFFFFFF, np.uint64),
        np.full(count, counter >> 32, np.uint64),
        np.arange(count, dtype=np.uint64),
        np.zeros(count, np.uint64),
    ]
    key = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        first = words[0] * np.uint64(0xD2511F53)
        second = words[2] * np.uint64(0xCD9E8D57)
        words = [
            (second >> shift) ^ words[1] ^ np.uint64(key[0]),
            second & low,
            (first >> shift) ^ words[3] ^ np.uint64(key[1]),
            first & low,
        ]
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return words[0]


def _fma(a: np.ndarray, b: Any, c: Any) -> np.ndarray:
    """Return a * b + c of float32 numbers, rounded once.

    The product is exact in float64. The sum is rounded to odd there (Boldo and Melquiond 2008),
    after which rounding to float32 gives what a single rounding would.
    """
    product = np.asarray(a, np.float64) * np.asarray(b, np.float64)
    addend = np.asarray(c, np.float64)
    total = product + addend
    rest = total - product
    error = (product - (total - rest)) + (addend - rest)
    bits = total.view(np.int64)
    even = (error != 0) & (bits & 1 == 0)
    bits += even * np.where((error > 0) == (total > 0), 1, -1)
    return total.astype(np.float32)


def _horner(z: np.ndarray, coefficients: tuple[float, ...]) -> np.ndarray:
    value = np.full_like(z, coefficients[0])
    for coefficient in coefficients[1:]:
        value = _fma(value, z, np.float32(coefficient))
    return value


def _log(x: np.ndarray) -> np.ndarray:
    """Return log(x) as the float32 polynomial of Cephes (Moshier) gives it, fused."""
    mantissa, exponent = np.frexp(x)  # x = mantissa * 2^exponent, 0.5 <= mantissa < 1
    small = mantissa < np.float32(0.70710677)
    exponent = (exponent - small).astype(np.float32)
    m = np.where(small, (mantissa - 1) + mantissa, mantissa - 1)
    z = m * m
    y = _horner(m, LOG_COEFFICIENTS) * m
    y = _fma(y, z, exponent * np.float32(-2.12194440e-4))
    y = _fma(-z, np.float32(0.5), y)
    return _fma(exponent, np.float32(0.693359375), m + y)


# fmt: off
LOG_COEFFICIENTS = (
    7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
    -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
)
# fmt: on


def _sine_and_cosine(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return sin(x), cos(x) for x >= 0 as the float32 polynomials of Cephes give them, fused."""
    octant = (x * np.float32(1.27323954473516)).astype(np.int32)
    octant = (octant + 1) & ~1
    multiple = octant.astype(np.float32)
    for part in (-0.78515625, -2.4187564849853515625e-4, -3.77489497744594108e-8):
        x = _fma(multiple, np.float32(part), x)
    z = x * x
    c = _horner(z, (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2))
    c = _fma(c * z, z, -(np.float32(0.5) * z)) + np.float32(1)
    s = _horner(z, (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1))
    s = _fma(s * z, x, x)
    swapped = octant & 2 != 0
    sine, cosine = np.where(swapped, c, s), np.where(swapped, s, c)
    sine = np.where(octant & 4 != 0, -sine, sine)
    cosine = np.where((octant - 2) & 4 == 0, -cosine, cosine)
    return sine, cosine
