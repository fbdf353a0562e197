"""Random numbers: one seed, and an independent stream for each use of it.

A `Generator` holds four streams, so that, for example, another number of samples drawn during
training changes neither the batches nor the initial weights. All state is plain integers and can
be saved and restored.
"""

import contextlib
import os
import threading
import weakref
from collections.abc import Iterator
from functools import cache
from typing import Any, Self

import numpy as np

from tinygrad_char.kernels.cpu.forks import in_forked_children
from tinygrad_char.kernels.dropout import DropoutKey
from tinygrad_char.kernels.words import shorten

STREAMS = ("init", "batches", "dropout", "sampling")

_drawing = threading.Lock()  # of all keys: each takes it for a moment


def _renew() -> None:
    global _drawing
    _drawing = threading.Lock()


in_forked_children(_renew)

_streams: weakref.WeakSet["Stream"] = weakref.WeakSet()
_forking = threading.local()


def _hold() -> None:
    """Wait until nobody draws, since NumPy's locks cannot be made anew, and keep it so."""
    _forking.locks = sorted((each._bits.lock for each in list(_streams)), key=id)
    for lock in _forking.locks:
        lock.acquire()


def _release() -> None:
    for lock in _forking.locks:
        lock.release()
    _forking.locks = []


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_release)


class DropoutKeys:
    """The keys of dropout calls, one after the other.

    Attributes
    ----------
    seed, calls
        What the next key is made from.
    """

    def __init__(self, seed: int, calls: int = 0) -> None:
        self.seed, self.calls = seed, calls

    def next(self) -> DropoutKey:
        """Return the key of the next call, and count that."""
        with _drawing:
            self.calls += 1
            return DropoutKey(self.seed, self.calls)


class Stream:
    """One stream of random numbers (NumPy's PCG64DXSM), and the counter of its dropout keys.

    Streams of one seed with different keys are independent.
    """

    def __init__(self, seed: int, *key: int) -> None:
        sequence = np.random.SeedSequence(seed, spawn_key=key)
        self._bits = np.random.PCG64DXSM(sequence)
        self._numpy = np.random.Generator(self._bits)
        self._keys = DropoutKeys(int(sequence.generate_state(1, np.uint64)[0]))
        self._here = threading.local()
        _streams.add(self)

    def uniform(
        self, low: float, high: float, shape: Any = None, dtype: Any = np.float32
    ) -> np.ndarray:
        """Return numbers uniform in [low, high), in float32 or float64."""
        values = self._numpy.random(shape, dtype=dtype)
        return np.asarray(low + (high - low) * values, dtype=dtype)

    def normal(
        self, mean: float, std: float, shape: Any = None, dtype: Any = np.float32
    ) -> np.ndarray:
        """Return numbers of the normal distribution, in float32 or float64."""
        values = self._numpy.standard_normal(shape, dtype=dtype)
        return np.asarray(mean + std * values, dtype=dtype)

    def integers(self, low: int, high: int, size: Any = None) -> np.ndarray:
        """Return int64 numbers uniform in [low, high)."""
        return self._numpy.integers(low, high, size)

    def fraction(self) -> float:
        """Return a number uniform in [0, 1): the one that `multinomial` would draw for a row."""
        return self._numpy.random()

    def multinomial(self, probabilities: np.ndarray) -> np.ndarray:
        """Return for each row of probabilities (N, V) one index, drawn with them.

        The first index at which the running sum exceeds a uniform number times the total. Rows
        need not add up to 1.

        Raises
        ------
        ValueError
            Not two axes, or a row with a negative number, without a positive or a finite total.
        """
        if probabilities.ndim != 2:
            raise ValueError(f"multinomial: shape {probabilities.shape}, expected (rows, classes)")
        sums = np.cumsum(probabilities, axis=-1, dtype=np.float64)
        valid = (probabilities >= 0).all(axis=-1) & np.isfinite(sums).all(axis=-1)
        valid &= (probabilities > 0).any(axis=-1)
        if not valid.all():
            row = int(np.argmin(valid))
            raise ValueError(
                f"multinomial: row {row} is {probabilities[row]}, expected finite numbers of at "
                "least 0, not all of them 0"
            )
        threshold = self._numpy.random(len(sums)) * sums[:, -1]
        return (sums <= threshold[:, None]).sum(axis=-1)

    @property
    def keys(self) -> DropoutKeys:
        """The keys that this thread draws: its shard's, see `using`, or else the stream's own."""
        return getattr(self._here, "keys", self._keys)

    def dropout_key(self) -> DropoutKey:
        """Return the key of the next dropout call's random bits."""
        return self.keys.next()

    @contextlib.contextmanager
    def shards(self, count: int) -> Iterator[list[DropoutKeys]]:
        """Give each of `count` shards of a batch its own dropout keys, then go on after them.

        The keys of shard 0 are those that the stream would have given.
        """
        seed, calls = self._keys.seed, self._keys.calls
        shards = [DropoutKeys(_shard_seed(seed, number), calls) for number in range(count)]
        yield shards
        self._keys.calls = max(each.calls for each in shards)

    @contextlib.contextmanager
    def using(self, keys: DropoutKeys) -> Iterator[None]:
        """Draw the dropout keys of this thread from a shard's."""
        self._here.keys = keys
        try:
            yield
        finally:
            del self._here.keys

    def __reduce__(self) -> tuple[Any, ...]:
        return _stream_from_state, (self.get_state(),)

    def get_state(self) -> dict[str, Any]:
        """Return the state as plain integers and strings."""
        return {"bits": self._bits.state, "key": self._keys.seed, "calls": self._keys.calls}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on exactly where the stream stood whose state this is."""
        self._bits.state = state["bits"]
        self._keys = DropoutKeys(state["key"], state["calls"])


class Generator:
    """Independent streams `init`, `batches`, `dropout` and `sampling` from one seed.

    Copies of a module draw from the generator of the original: `copy.deepcopy` returns it itself.
    A pickle keeps the state; the default generator is unpickled as that of the process.
    """

    def __init__(self, seed: int) -> None:
        self.seed = check_seed(seed)
        self.init, self.batches, self.dropout, self.sampling = (
            Stream(seed, number) for number in range(len(STREAMS))
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        if self is default_generator():
            return default_generator, ()
        return _from_state, (self.get_state(),)

    def get_state(self) -> dict[str, Any]:
        """Return the seed and the state of every stream, as plain integers and strings."""
        return {"seed": self.seed, **{name: getattr(self, name).get_state() for name in STREAMS}}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on exactly where the generator stood whose state this is."""
        missing = [name for name in ("seed", *STREAMS) if name not in state]
        if missing:
            raise ValueError(f"random state lacks {', '.join(missing)}")
        self.seed = state["seed"]
        for name in STREAMS:
            getattr(self, name).set_state(state[name])


def _stream_from_state(state: dict[str, Any]) -> Stream:
    stream = Stream(0)
    stream.set_state(state)
    return stream


def _from_state(state: dict[str, Any]) -> Generator:
    generator = Generator(0)
    generator.set_state(state)
    return generator


def _shard_seed(seed: int, number: int) -> int:
    if number == 0:
        return seed
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0])


def check_seed(seed: int) -> int:
    """Return the seed, or raise ValueError unless it is an integer from 0 to 2^64 - 1."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 1 << 64:
        raise ValueError(f"seed {shorten(seed)}: expected an integer from 0 to 2^64 - 1")
    return int(seed)


def sampling_streams(seed: int, count: int) -> list[Stream]:
    """Return one stream for each of several texts, so that none depends on how many there are."""
    return [Stream(check_seed(seed), STREAMS.index("sampling"), text) for text in range(count)]


@cache
def default_generator() -> Generator:
    """Return the generator of layers that were given none; made when first asked for."""
    return Generator(0)


def manual_seed(seed: int) -> Generator:
    """Seed the default generator afresh and return it."""
    generator = default_generator()
    generator.set_state(Generator(seed).get_state())
    return generator
