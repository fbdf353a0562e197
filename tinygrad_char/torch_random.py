"""PyTorch's random streams, digit for digit, without PyTorch.

A run that was published with its seed can be reproduced if the same numbers are drawn in the same
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
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from typing import Any, Literal, Self, get_args

import numpy as np

from tinygrad_char.bit_streams import MCG31, philox4x32
from tinygrad_char.float32_math import fma, log, sine_and_cosine
from tinygrad_char.functional import check_probability
from tinygrad_char.random import check_seed

Build = Literal["default", "mkl", "cuda"]
Shape = int | tuple[int, ...] | None

CHUNK = 1 << 15
"""How many values are made at a time, so that they stay in the processor's cache."""


class TorchGenerator:
    """The generator of `torch.manual_seed(seed)` on a CPU.

    Copies of a module draw from the generator of the original: `copy.deepcopy` returns it itself.

    Parameters
    ----------
    seed
        An integer from 0 to 2^64 - 1; as in PyTorch, the twister takes its low 32 bits.
    build
        Which PyTorch's choices to follow: "default", "mkl" or "cuda".
    exact
        Whether normal numbers are PyTorch's to the last bit: float32 with its polynomials and
        fused multiply-adds, about three times slower, and float64 with the C library's functions,
        far slower. Otherwise they are so to a few units in the last place.
    """

    def __init__(self, seed: int, build: Build = "default", *, exact: bool = True) -> None:
        self.build, self.exact = _check_build(build), exact
        self._words = np.random.MT19937(0)
        self.manual_seed(seed)

    def manual_seed(self, seed: int) -> Self:
        """Start again from a seed and return self."""
        self.seed = check_seed(seed)
        seeded: Any = np.random.RandomState(self.seed & 0xFFFFFFFF).get_state(legacy=False)
        self._words.state = seeded
        self._second_normal: float | None = None
        self._gpu_calls = 0
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    # One stream for every use

    @property
    def init(self) -> Self:
        """The stream of initial weights: this one."""
        return self

    batches = dropout = sampling = init

    # Words and uniform numbers

    def words(self, count: int) -> np.ndarray:
        """Return the next 32-bit words, uint32 (count,)."""
        return self._words.random_raw(_count(count)).astype(np.uint32)

    def _words64(self, count: int) -> np.ndarray:
        pairs = self._words.random_raw(2 * count).reshape(-1, 2)
        return (pairs[:, 0] << np.uint64(32)) | pairs[:, 1]

    def _uniform53(self, count: int) -> np.ndarray:
        bits = self._words64(count) & np.uint64((1 << 53) - 1)
        return bits.view(np.int64) * 2.0**-53

    def integers(self, low: int, high: int, size: Shape = None) -> Any:
        """Return int64 numbers from low to below high, as `torch.randint`."""
        if not -(1 << 63) <= low < high < 1 << 63:
            raise ValueError(
                f"integers from {low} to below {high}: expected a range that is not empty, within "
                "64 bits"
            )
        span = high - low
        draw: Callable[[int], np.ndarray] = self.words if span < 1 << 28 else self._words64
        return _made(size, np.int64, lambda n: (draw(n) % span).astype(np.int64) + low)

    def rand(self, shape: Shape = None, dtype: Any = np.float32) -> Any:
        """Return numbers uniform in [0, 1), as `torch.rand`: float32 (24 bits) or float64 (53)."""
        if _check_dtype(dtype) == np.float64:
            return _made(shape, np.float64, self._uniform53)
        return _made(shape, np.float32, self._uniform24)

    def _uniform24(self, count: int) -> np.ndarray:
        bits = self.words(count) & np.uint32((1 << 24) - 1)
        return bits.view(np.int32).astype(np.float32) * np.float32(2.0**-24)

    def uniform(self, low: float, high: float, shape: Shape = None) -> Any:
        """Return float32 numbers uniform in [low, high), as `tensor.uniform_(low, high)`."""
        low32, high32 = np.float32(low), np.float32(high)
        if not low32 <= high32:
            raise ValueError(f"uniform numbers from {low} to {high}: expected low <= high")
        width, start = np.float64(high32 - low32), np.float64(low32)

        def draw(count: int) -> np.ndarray:
            values = fma(self._uniform24(count).astype(np.float64), width, start)
            values[values == high32] = low32
            return values

        return _made(shape, np.float32, draw)

    # Normal numbers

    def randn(self, shape: Shape = None, dtype: Any = np.float32) -> Any:
        """Return standard normal numbers, as `torch.randn`: float32 or float64."""
        return self.normal(0.0, 1.0, shape, dtype)

    def normal(self, mean: float, std: float, shape: Shape = None, dtype: Any = np.float32) -> Any:
        """Return normal numbers, as `tensor.normal_(mean, std)`.

        By the method of Box and Muller (1958): fewer than 16 numbers in pairs of which the second
        is kept for the next call, 16 or more in groups of 16. Where they do not fill the last
        group, 16 more uniform numbers are drawn and the last 16 results made from them.
        """
        dtype = _check_dtype(dtype)
        if not (math.isfinite(mean) and 0 <= std < math.inf):
            raise ValueError(
                f"normal numbers with mean {mean} and std {std}: expected finite numbers, std of "
                "at least 0"
            )
        count = _count(shape)
        if count < 16:
            few = np.array([self._next_normal() for _ in range(count)], np.float64)
            return _shaped(self._scaled(few, mean, std).astype(dtype), shape)
        whole = count - count % 16
        result = np.empty(count, dtype)
        _fill(result[:whole], lambda n: self._groups(n, mean, std, dtype))
        if whole < count:
            self.rand(count - whole, dtype)
            result[-16:] = self._groups(16, mean, std, dtype)
        return _shaped(result, shape)

    def _next_normal(self) -> float:
        if self._second_normal is not None:
            value, self._second_normal = self._second_normal, None
            return value
        u1, u2 = self._uniform53(2).tolist()
        radius = math.sqrt(-2 * math.log1p(-u2))
        self._second_normal = radius * math.sin(2 * math.pi * u1)
        return radius * math.cos(2 * math.pi * u1)

    def _groups(self, count: int, mean: float, std: float, dtype: np.dtype) -> np.ndarray:
        """Return normal numbers in groups of 16: eight cosines, then the eight sines."""
        normal = self.rand((count // 16, 2, 8), dtype)
        u1, angle = 1 - normal[:, 0], normal[:, 1] * dtype.type(2 * math.pi)
        if not self.exact:
            logarithm, sine, cosine = np.log(u1), np.sin(angle), np.cos(angle)
        elif dtype == np.float32:
            logarithm, (sine, cosine) = log(u1), sine_and_cosine(angle)
        else:
            logarithm, sine, cosine = (
                np.reshape([function(each) for each in x.reshape(-1).tolist()], x.shape)
                for function, x in ((math.log, u1), (math.sin, angle), (math.cos, angle))
            )
        radius = np.sqrt(-2 * logarithm)
        np.multiply(radius, cosine, out=normal[:, 0])
        np.multiply(radius, sine, out=normal[:, 1])
        return self._scaled(normal.reshape(-1), mean, std)

    def _scaled(self, normal: np.ndarray, mean: float, std: float) -> np.ndarray:
        """Return normal * std + mean, exact ones rounded once."""
        mean, std = normal.dtype.type(mean), normal.dtype.type(std)
        if not self.exact or mean == 0 or std == 1:  # the last two round but once in any case
            return normal * std + mean
        if normal.dtype == np.float32:
            return fma(normal.astype(np.float64), np.float64(std), np.float64(mean))
        slope, start = Fraction(float(std)), Fraction(float(mean))
        return np.array([float(slope * Fraction(each) + start) for each in normal.tolist()], float)

    # Exponential numbers, choices, dropout

    def exponential(self, shape: Shape = None, rate: float = 1.0) -> Any:
        """Return float32 exponential numbers, as `tensor.exponential_(rate)`.

        On a GPU, PyTorch draws more numbers than there are threads (ten thousands) in another
        order; the "cuda" stream is that of fewer.
        """
        if not rate > 0:
            raise ValueError(f"exponential numbers with rate {rate}: expected more than 0")
        if self.build == "cuda":
            return _shaped(self._gpu_exponential(_count(shape), rate), shape)
        uniform = self._uniform_source()

        def draw(count: int) -> np.ndarray:
            if self.build == "mkl":
                values = (-np.log(uniform(count)) / rate).astype(np.float32)
                return values + np.finfo(np.float32).tiny
            return -1 / rate * np.log1p(-uniform(count))

        return _made(shape, np.float32, draw)

    def multinomial(self, probabilities: np.ndarray) -> np.ndarray:
        """Return for each row of probabilities (N, V) one index, as `torch.multinomial(p, 1)`.

        The index of the largest p / q, q exponential: the exponential race. Rows need not add up
        to 1.

        Raises
        ------
        ValueError
            Not two axes, or a row with a negative number, one that is not finite, or only zeros.
        """
        p = np.asarray(probabilities, np.float32)
        if p.ndim != 2:
            raise ValueError(f"multinomial: shape {p.shape}, expected (rows, classes)")
        valid = ((p >= 0) & (p < np.inf)).all(axis=-1) & (p > 0).any(axis=-1)
        if not valid.all():
            row = int(np.argmin(valid))
            raise ValueError(
                f"multinomial: row {row} is {p[row]}, expected finite numbers of at least 0, not "
                "all of them 0"
            )
        with np.errstate(divide="ignore", over="ignore"):
            return (p / self.exponential(p.shape)).argmax(axis=-1)

    def bernoulli(self, p: float, shape: Shape = None) -> Any:
        """Return float32 ones with probability p, else zeros, as `tensor.bernoulli_(p)`."""
        check_probability("bernoulli", p)
        uniform = self._uniform_source()
        return _made(shape, np.float32, lambda count: uniform(count) < p)

    def dropout_key(self) -> DropoutMask:
        """Return what draws the mask of the next dropout call, as `torch.nn.functional.dropout`."""
        return DropoutMask(self)

    def _uniform_source(self) -> Callable[[int], np.ndarray]:
        """Return what draws, part by part, the float64 numbers of one exponential or dropout call.

        Nothing is drawn before the first part is: PyTorch draws nothing for an empty tensor.
        """
        if self.build != "mkl":
            return self._uniform53
        seeded = cache(lambda: MCG31(int(self.words(1)[0])))
        return lambda count: seeded().uniform(count)

    def _gpu_exponential(self, count: int, rate: float) -> np.ndarray:
        word = philox4x32(self.seed, self._gpu_calls, count)
        self._gpu_calls += count > 0
        uniform = word.astype(np.float32) * np.float32(2.0**-32) + np.float32(2.0**-33)
        # The last step below 1 is where its logarithm would round to nothing.
        logarithm = np.where(uniform >= 1 - 2.0**-24, -np.float32(2.0**-24), np.log(uniform))
        return (-1 / rate * logarithm).astype(np.float32)

    # State

    def get_state(self) -> dict[str, Any]:
        """Return the state as plain numbers, lists and strings."""
        state: Any = self._words.state["state"]
        return {
            "build": self.build,
            "exact": self.exact,
            "seed": self.seed,
            "words": state["key"].tolist(),
            "position": int(state["pos"]),
            "second_normal": self._second_normal,
            "gpu_calls": self._gpu_calls,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on exactly where the generator stood whose state this is.

        Raises
        ------
        ValueError
            Something is missing, or is not what `get_state` returns.
        """
        missing = [name for name in self.get_state() if name not in state]
        if missing:
            raise ValueError(f"random state lacks {', '.join(missing)}")
        words, position = np.array(state["words"], np.uint32), state["position"]
        if words.shape != (624,) or not 0 <= position <= 624:
            raise ValueError(
                f"random state has words of shape {words.shape} and position {position}; expected "
                "(624,) and a number from 0 to 624"
            )
        build, self.seed = _check_build(state["build"]), check_seed(state["seed"])
        self.build, self.exact = build, bool(state["exact"])
        self._words.state = {
            "bit_generator": "MT19937",
            "state": {"key": words, "pos": position},
        }
        self._second_normal, self._gpu_calls = state["second_normal"], state["gpu_calls"]


class DropoutMask:
    """The mask of one dropout call: stands where a `tinygrad_char.kernels.dropout.DropoutKey` does.

    It is drawn when it is first asked for and kept for backward. As in PyTorch, nothing is drawn
    where nothing or everything is dropped.
    """

    def __init__(self, generator: TorchGenerator) -> None:
        self._uniform = generator._uniform_source()
        self._masks: dict[int, np.ndarray] = {}

    def keep_mask(self, shape: tuple[int, ...], p: float, start: int = 0) -> np.ndarray:
        """Return the mask of a part of this call, from `start` on; parts are drawn in order."""
        if p in (0, 1):
            return np.full(shape, p == 0)
        if start not in self._masks:
            self._masks[start] = _made(shape, np.bool_, lambda count: self._uniform(count) < 1 - p)
        return self._masks[start]

    def keep_scale(self, p: float, dtype: np.dtype) -> float:
        """Return 1 / (1 - p) as PyTorch rounds it for this dtype, and 0 where nothing is kept."""
        return float(dtype.type(1) / dtype.type(1 - p)) if p < 1 else 0.0


def _check_build(build: Any) -> Build:
    if build not in get_args(Build):
        raise ValueError(f"build is {build!r}; expected one of {', '.join(get_args(Build))}")
    return build


def _check_dtype(dtype: Any) -> np.dtype:
    if dtype not in (np.float32, np.float64):
        raise ValueError(f"random numbers of {dtype!r}; expected float32 or float64")
    return np.dtype(dtype)


def _count(shape: Shape) -> int:
    sizes = () if shape is None else (shape,) if isinstance(shape, int | np.integer) else shape
    if any(size < 0 for size in sizes):
        raise ValueError(f"random numbers of shape {shape}: expected sizes of at least 0")
    return math.prod(sizes)


def _shaped(values: np.ndarray, shape: Shape) -> Any:
    return values[0] if shape is None else values.reshape(shape)


def _made(shape: Shape, dtype: Any, draw: Callable[[int], np.ndarray]) -> Any:
    """Return an array of this shape, or one number for None, filled by `draw(count)`."""
    values = np.empty(_count(shape), dtype)
    _fill(values, draw)
    return _shaped(values, shape)


def _fill(values: np.ndarray, draw: Callable[[int], np.ndarray]) -> None:
    for start in range(0, len(values), CHUNK):
        part = values[start : start + CHUNK]
        part[:] = draw(len(part))
