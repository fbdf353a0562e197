"""no_grad, enable_grad and detect_nonfinite: where they hold, and where they no longer do."""

import asyncio
import inspect
import threading
from functools import partial

import numpy as np
import pytest

import tinygrad_char as tg
from tinygrad_char import NonFiniteError, Tensor
from tinygrad_char.modes import is_detecting_nonfinite

STATES = {
    tg.no_grad: lambda: not tg.is_grad_enabled(),
    tg.detect_nonfinite: is_detecting_nonfinite,
}


@pytest.fixture(params=STATES, ids=lambda each: each.__name__)
def guard(request):
    return request.param


@pytest.fixture
def holds(guard):
    return STATES[guard]


def test_a_guard_may_be_used_again_and_within_itself(guard, holds):
    one = guard()
    for _ in range(2):
        with one:
            assert holds()
            with one:
                assert holds()
            assert holds()
        assert not holds()


def test_one_guard_in_two_threads(guard, holds):
    one, inside, leave, seen = guard(), threading.Event(), threading.Event(), []

    def other():
        with one:
            inside.set()
            leave.wait(60)
            seen.append(holds())
        seen.append(holds())

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait(60)
    assert not holds()
    with one:
        assert holds()
        leave.set()
        thread.join()
        assert holds()
    assert not holds()
    assert seen == [True, False]


def test_functions(guard, holds):
    @guard()
    def with_parentheses(x, *, y=1):
        """Its text."""
        return holds(), x, y

    @guard
    def without():
        return holds()

    assert with_parentheses(1, y=2) == (True, 1, 2)
    assert with_parentheses.__doc__ == "Its text."
    assert without()
    assert not holds()


def test_a_function_that_calls_itself_and_one_that_raises(guard, holds):
    @guard()
    def down(n):
        assert holds()
        if n == 0:
            raise KeyError("end")
        down(n - 1)

    with pytest.raises(KeyError):
        down(3)
    assert not holds()


def test_generators_have_it_whenever_their_body_runs(guard, holds):
    seen = []

    @guard()
    def numbers(n):
        try:
            for i in range(n):
                seen.append(holds())
                got = yield i
                seen.append((holds(), got))
        except ValueError:
            seen.append(holds())
            yield "caught"
        finally:
            seen.append(holds())
        return "end"

    assert inspect.isgeneratorfunction(numbers)
    steps = numbers(2)
    assert next(steps) == 0
    assert not holds()
    assert steps.send("given") == 1
    assert not holds()
    assert steps.throw(ValueError("into it")) == "caught"
    assert not holds()
    with pytest.raises(StopIteration) as end:
        next(steps)
    assert end.value.value == "end"
    assert seen == [True, (True, "given"), True, True, True]
    closed = numbers(5)
    next(closed)
    seen.clear()
    closed.close()
    assert seen == [True]
    assert not holds()


def test_what_the_consumer_of_a_generator_computes_is_recorded():
    @tg.no_grad()
    def halves(x):
        while True:
            x = x / 2
            yield x

    x = Tensor([8.0], requires_grad=True)
    for half in halves(x):
        y = x * half
        assert not half.requires_grad
        assert y.requires_grad
        if half.item() == 1:
            break


def test_an_exception_of_the_body_reaches_the_consumer(guard, holds):
    @guard()
    def one():
        yield 1
        raise KeyError("body")

    steps = one()
    next(steps)
    with pytest.raises(KeyError, match="body"):
        next(steps)
    assert not holds()


def test_coroutines(guard, holds):
    seen = []

    @guard()
    async def body(x):
        seen.append(holds())
        await asyncio.sleep(0)
        seen.append(holds())
        return x

    async def others():
        for _ in range(3):
            seen.append(("other", holds()))
            await asyncio.sleep(0)

    async def main():
        return (await asyncio.gather(body(5), others()))[0]

    assert asyncio.run(main()) == 5
    assert [each for each in seen if isinstance(each, bool)] == [True, True]
    assert {each for each in seen if isinstance(each, tuple)} == {("other", False)}


def test_what_cannot_be_decorated(guard):
    async def steps():
        yield 1

    for wrong in (steps, Tensor, 5):
        with pytest.raises(TypeError, match=guard.__name__):
            guard()(wrong)


def test_enable_grad():
    x = Tensor([1.0], requires_grad=True)
    with tg.no_grad():
        assert not (x * 2).requires_grad
        with tg.enable_grad():
            assert (x * 2).requires_grad
        assert not (x * 2).requires_grad


class TestInfinitiesOfMasks:
    def test_pass(self, device):
        x = Tensor([[1.0, 2.0], [3.0, 4.0]], device=device, requires_grad=True)
        mask = Tensor([[True, False], [True, True]], device=device)
        bias = np.float32([[0, -np.inf], [0, 0]])
        place = partial(Tensor, device=device)
        with tg.detect_nonfinite():
            for scores in (x.masked_fill(~mask, float("-inf")), x + bias, x + place(bias)):
                y = (scores * 0.5).softmax()
                (y * y).sum().backward()
        assert np.isfinite(x.grad.cpu().numpy()).all()

    @pytest.mark.parametrize(
        "function",
        [
            lambda x: x.log(),
            lambda x: -x / 0,
            lambda x: x.masked_fill(x == 0, float("-inf")).softmax(0),
            lambda x: x.masked_fill(x == 0, float("-inf")) * -1.0,
            lambda x: x.masked_fill(x == 0, float("inf")),
        ],
    )
    def test_others_do_not(self, device, function):
        with np.errstate(all="ignore"), tg.detect_nonfinite(), pytest.raises(NonFiniteError):
            function(Tensor([0.0], device=device))
