"""Data parallelism on the cores of one machine.

A batch is cut in shards. Each runs forward and backward by itself, on a thread; the gradients are
added up in the order of the shards, so the result depends on how the batch was cut, never on how
many threads there were or which was first. Within a shard the matrix products use one thread:
whole shards side by side keep every core busy between the products, too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from kernels.array import Array
from kernels.backend import CPU
from kernels.cores import available_cores, one_core
from tinygrad_char.autograd import Accumulation, is_detecting_nonfinite
from tinygrad_char.program import Computed
from tinygrad_char.random import DropoutKeys, Stream
from tinygrad_char.tensor import Tensor
from tinygrad_char.trace import TracedLoss, loss_and_gradients

if TYPE_CHECKING:
    import threadpoolctl

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """Threads that compute independent pieces of work side by side.

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
            raise ValueError(f"Workers: threads={threads}, expected a whole number of at least 1")

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.threads, "tinygrad-char")

    @cached_property
    def _libraries(self) -> threadpoolctl.ThreadpoolController:
        import threadpoolctl

        return threadpoolctl.ThreadpoolController()

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """Yield function(item) for each item, in order; few results wait to be taken.

        An exception is raised at its item's turn, once all work that has begun is done. For one
        thread or one item, and under `detect_nonfinite`, this thread does the work itself.
        """
        with self._libraries.limit(limits=1, user_api="blas"):
            if min(self.threads, len(items)) == 1 or is_detecting_nonfinite():
                yield from map(_keeping_to_one_core(function), items)
            else:
                yield from self._map_on_threads(_keeping_to_one_core(function), items)

    def _map_on_threads(
        self, function: Callable[[Item], Result], items: Sequence[Item]
    ) -> Iterator[Result]:
        rest = iter(items)
        begun: deque[Future[Result]] = deque()
        try:
            while True:
                for item in islice(rest, self.threads + 1 - len(begun)):
                    begun.append(self._pool.submit(function, item))
                if not begun:
                    return
                yield begun.popleft().result()
        finally:
            for each in begun:
                each.cancel()
            wait(begun)


def _keeping_to_one_core(function: Callable[[Item], Result]) -> Callable[[Item], Result]:
    def work(item: Item) -> Result:
        with one_core():
            return function(item)

    return work


def backward(
    loss: Callable[[Item], Tensor] | TracedLoss,
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
        besides, such as the running averages of a BatchNorm, is not kept in order. Or such a
        loss traced, by the same parameters.
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
            if isinstance(loss, TracedLoss):
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
            with one_core() if self.shards else nullcontext():  # others may be at work still
                CPU.add.into(before, part.flat, self.flat_grad)
            self._wrote(part)

    def finish(self) -> None:
        """Have everything that was taken in the leaves' `.grad`."""
        self._write_first()
        self._accumulation.finish()

    def _is_flat(self) -> bool:
        """Return whether the leaves' gradients are parts of `flat_grad`, or none of them is set."""
        if self.flat_grad is None or any(each.hooks for each in self.leaves):
            return False
        grads = [each.grad for each in self.leaves]
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
