"""Data parallelism on the cores of one machine.

A batch is cut in shards. Each runs forward and backward by itself, on a thread; the gradients are
added up in the order of the shards, so the result depends on how the batch was cut, never on how
many threads there were or which was first. Within a shard the matrix products use one thread:
whole shards side by side keep every core busy between the products, too.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from contextvars import copy_context
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from tinygrad_char.autograd import Accumulation
from tinygrad_char.kernels import add
from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.backend import CPU
from tinygrad_char.kernels.cpu.cores import allowed_cores, available_cores, one_core
from tinygrad_char.kernels.cpu.forks import in_forked_children, renew_in_forked_children
from tinygrad_char.modes import is_detecting_nonfinite, is_grad_enabled, no_grad
from tinygrad_char.random import DropoutKeys, Stream
from tinygrad_char.repeated import Computed, RepeatedLoss, loss_and_gradients
from tinygrad_char.tensor import Tensor

if TYPE_CHECKING:
    import threadpoolctl

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """Threads that compute independent pieces of work side by side.

    Several threads may use the same ones at once. A forked process starts its own.

    Parameters
    ----------
    threads
        How many; by default one for each core.

    Raises
    ------
    ValueError
        `threads` is below 1.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads = available_cores() if threads is None else threads
        if self.threads < 1:
            raise ValueError(f"Workers: threads={threads}, expected an integer of at least 1")
        self.renew()
        renew_in_forked_children(self)

    def renew(self) -> None:
        """Have threads started when they are next needed, see kernels/cpu/forks.py."""
        self._pool: ThreadPoolExecutor | None = None
        self._starting = threading.Lock()

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """Yield function(item) for each item, in order; few results wait to be taken.

        The threads work in the mode of the one that asks: its context variables, as the
        evaluation mode of modules and NumPy's handling of errors, and whether the tape is on.

        An exception is raised at its item's turn, once all work that has begun is done. For one
        thread or one item, under `detect_nonfinite`, and where one of the threads itself asks,
        the thread that asks does the work.
        """
        with _one_blas_thread():
            if min(self.threads, len(items)) == 1 or is_detecting_nonfinite() or _here.working:
                yield from map(_keeping_to_one_core(function), items)
            else:
                yield from self._map_on_threads(_as_here(_keeping_to_one_core(function)), items)

    def _map_on_threads(
        self, function: Callable[[Item], Result], items: Sequence[Item]
    ) -> Iterator[Result]:
        rest = iter(items)
        begun: deque[Future[Result]] = deque()
        pool, process = self._threads(), os.getpid()
        try:
            while True:
                for item in islice(rest, self.threads + 1 - len(begun)):
                    begun.append(pool.submit(copy_context().run, function, item))
                if not begun:
                    return
                yield begun.popleft().result()
                if os.getpid() != process:
                    raise RuntimeError(
                        "Workers.map: this process was forked in the middle of it, and what "
                        "remains is computed in the other one; call it again here"
                    )
        finally:
            if os.getpid() == process:
                for each in begun:
                    each.cancel()
                wait(begun)

    def _threads(self) -> ThreadPoolExecutor:
        with self._starting:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.threads, "tinygrad-char")
            return self._pool


class _ThreadState(threading.local):
    working = False


_here = _ThreadState()


def _keeping_to_one_core(function: Callable[[Item], Result]) -> Callable[[Item], Result]:
    def work(item: Item) -> Result:
        with one_core():
            return function(item)

    return work


def _as_here(function: Callable[[Item], Result]) -> Callable[[Item], Result]:
    """Return the function for the threads of `Workers`, in grad mode only if this thread is."""
    enabled = is_grad_enabled()

    def work(item: Item) -> Result:
        _here.working = True
        with nullcontext() if enabled else no_grad():
            return function(item)

    return work


class _BlasLimit:
    """Keeps BLAS to one thread while anybody wants that: how many it takes is the process's.

    Attributes
    ----------
    lock
        Held while the number changes, so also while the process is forked: never in between.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._users = 0
        self._before: list[int | None] = []

    def enter(self) -> None:
        with self.lock:
            if self._users == 0:
                self._before = [each.num_threads for each in _blas_libraries()]
                _set_blas_threads([1] * len(self._before))
            self._users += 1

    def leave(self) -> None:
        with self.lock:
            self._users -= 1
            if self._users == 0:
                _set_blas_threads(self._before)

    def lower(self, most: int) -> None:
        """Let BLAS have at most so many threads, once nobody wants it to have one."""
        with self.lock:
            if not self._users:
                self._before = [each.num_threads for each in _blas_libraries()]
            self._before = [each and min(each, most) for each in self._before]
            if not self._users:
                _set_blas_threads(self._before)

    def renew(self) -> None:
        """Take nobody for a user any more; called with the lock held."""
        if self._users:
            _set_blas_threads(self._before)
        self._users = 0


_blas_limit = _BlasLimit()
in_forked_children(_blas_limit.renew, _blas_limit.lock)


def keep_blas_to_quota() -> None:
    """Have matrix products take no more threads than a control group gives processors' time.

    BLAS counts the processors that it may run on: in a container with a small part of a large
    machine its threads would use up a period's time at once, and all would wait for the next.
    Without such a limit nothing changes.
    """
    if (cores := available_cores()) < allowed_cores():
        _blas_limit.lower(cores)


@contextmanager
def _one_blas_thread() -> Iterator[None]:
    process = os.getpid()
    _blas_limit.enter()
    try:
        yield
    finally:
        if os.getpid() == process:  # a forked process has forgotten it
            _blas_limit.leave()


def _set_blas_threads(numbers: Sequence[int | None]) -> None:
    for library, number in zip(_blas_libraries(), numbers, strict=True):
        # By newer versions the thread that has set a number last is the only one that may.
        set_free = getattr(library, "clear_controlling_thread", lambda force: None)
        set_free(force=True)
        library.set_num_threads(number)
        set_free(force=True)


@cache
def _blas_libraries() -> list[threadpoolctl.LibController]:
    import threadpoolctl

    return threadpoolctl.ThreadpoolController().select(user_api="blas").lib_controllers


def backward(
    loss: Callable[[Item], Tensor] | RepeatedLoss,
    shards: Sequence[Item],
    weights: Sequence[float],
    parameters: Sequence[Tensor],
    *,
    workers: Workers,
    dropout: Stream,
    flat_grad: Array | None = None,
) -> float:
    """Add the gradients of sum_i weights_i loss(shards_i) to `.grad`, and return this sum.

    Parameters
    ----------
    loss
        Gives a tensor with one element; called on several threads at once. What it changes
        besides, such as the running averages of a BatchNorm, is not kept in order. Or a
        RepeatedLoss, of the same parameters.
    weights
        For the mean over a batch, each shard's part of it.
    parameters
        The leaves whose gradients are wanted.
    dropout
        The stream of dropout keys that `loss` draws from: each shard has its own part of it.
    flat_grad
        An optimizer's, of which the parameters' gradients are views, in their order.
    """
    total = _Sum(parameters, flat_grad, len(shards))

    def compute(work: tuple[Item, float, DropoutKeys]) -> Computed:
        shard, weight, keys = work
        with dropout.using(keys):
            if isinstance(loss, RepeatedLoss):
                return loss.compute(shard, weight)
            return loss_and_gradients(loss, shard, weight, parameters)

    with dropout.shards(len(shards)) as keys:
        for part in workers.map(compute, list(zip(shards, weights, keys, strict=True))):
            total.add(part)
    total.finish()
    return total.loss


class _Sum:
    """What shards have computed, added up in their order.

    Where all gradients of a shard lie one after the other, as the leaves' own do, they are added
    in one pass; the first shard's wait for the second's, since they need not be copied then.
    """

    def __init__(self, leaves: Sequence[Tensor], flat_grad: Array | None, shards: int) -> None:
        self.leaves, self.flat_grad, self.shards = leaves, flat_grad, shards
        self.loss = 0.0
        self._accumulation = Accumulation()
        self._first: Computed | None = None

    def add(self, part: Computed) -> None:
        """Take the next shard's, and release it when it is added."""
        self.loss += part.loss
        self.shards -= 1
        if part.flat is None or not self._is_flat():
            self._write_first()
            for leaf, grad in zip(self.leaves, part.grads, strict=True):
                if grad is not None:  # which hooks have to wait for until the end
                    self._accumulation.add(leaf, grad.copy() if leaf.hooks else grad)
            part.release()
        elif self._first is None and self.leaves[0].grad is None:
            self._first = part
        else:
            before = self.flat_grad if self._first is None else self._first.flat
            assert before is not None
            assert self.flat_grad is not None
            with one_core() if self.shards else nullcontext():  # others may be at work still
                CPU.kernels[add.into](before, part.flat, self.flat_grad)
            self._wrote(part)

    def finish(self) -> None:
        """Have everything that was taken in the leaves' `.grad`."""
        self._write_first()
        self._accumulation.finish()

    def _is_flat(self) -> bool:
        """Return whether the leaves' gradients are parts of `flat_grad`, or none of them is set."""
        if self.flat_grad is None or any(each.hooks for each in self.leaves):
            return False
        grads = [each._grad for each in self.leaves]
        return all(each is None for each in grads) or all(
            grad is leaf.grad_buffer for grad, leaf in zip(grads, self.leaves, strict=True)
        )

    def _write_first(self) -> None:
        if self._first is not None and self.flat_grad is not None:
            self.flat_grad[...] = self._first.flat
            self._wrote()

    def _wrote(self, *parts: Computed) -> None:
        for leaf in self.leaves:
            leaf._grad = leaf.grad_buffer
            leaf.grad_buffer.version.value += 1
        for part in (self._first, *parts):
            if part is not None:
                part.release()
        self._first = None
