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
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from kernels.array import Array
from kernels.cores import available_cores, one_core
from tinygrad_char.autograd import Accumulation, add_flat, is_detecting_nonfinite
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
    accumulation = Accumulation()
    total = 0.0

    def compute(
        work: tuple[Item, float, DropoutKeys],
    ) -> Computed:
        shard, weight, keys = work
        with dropout.using(keys):
            if isinstance(loss, TracedLoss):
                return loss.compute(shard, weight)
            return loss_and_gradients(loss, shard, weight, parameters)

    with dropout.shards(len(shards)) as keys:
        for part in workers.map(compute, list(zip(shards, weights, keys, strict=True))):
            total += part.loss
            if (
                part.flat is None
                or flat_grad is None
                or not add_flat(parameters, part.flat, flat_grad)
            ):
                for leaf, grad in zip(parameters, part.grads, strict=True):
                    if grad is not None:
                        accumulation.add(leaf, grad)
            part.release()
    accumulation.finish()
    return total
