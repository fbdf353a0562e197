"""Nothing is kept that is not needed any more, and nothing waits for the garbage collector."""

import gc
import sys
import weakref

import numpy as np
import pytest

import tinygrad_char as tg
from tinygrad_char import functional as F
from tinygrad_char import nn, optim
from tinygrad_char.random import Generator


def mlp(generator):
    return nn.Sequential(
        nn.Linear(4, 8, generator=generator),
        nn.BatchNorm1d(8),
        nn.GELU(),
        nn.Dropout(0.1, generator=generator),
        nn.Linear(8, 3, generator=generator),
    )


def attention(generator):
    return nn.Sequential(
        nn.Embedding(3, 4, generator=generator),
        nn.CausalSelfAttention(4, 2, dropout=0.1, generator=generator),
        nn.LayerNorm(4),
        nn.Linear(4, 3, generator=generator),
    )


MODELS = {
    "mlp": (mlp, lambda s: s.normal(0, 1, (5, 4)), lambda s: s.integers(0, 3, 5)),
    "attention": (
        attention,
        lambda s: s.integers(0, 3, (2, 3)),
        lambda s: s.integers(0, 3, (2, 3)),
    ),
}


def training(name):
    """Return a function that makes one training step, with a hook and a clipped norm."""
    generator = Generator(0)
    build, draw_inputs, draw_targets = MODELS[name]
    model = build(generator)
    optimizer = optim.AdamW(model.parameters())

    def step():
        inputs = draw_inputs(generator.batches)
        x = tg.Tensor(inputs) if inputs.dtype.kind == "f" else inputs
        loss = F.cross_entropy(model(x), draw_targets(generator.batches))
        loss.retain_grad()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(max_norm=1.0)
        return loss

    return step


@pytest.fixture
def no_collector():
    """Without Python's collector of cycles, so that what it would find stays to be found."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("name", MODELS)
def test_a_thousand_training_steps_need_no_more_memory(name):
    step = training(name)

    def blocks_after(steps):
        for _ in range(steps):
            step()
        gc.collect()  # empties Python's own lists of objects to use again, which count as well
        return sys.getallocatedblocks()

    growth = -blocks_after(200) + blocks_after(1000)
    assert growth < 500  # not even one object in every second step


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.usefixtures("no_collector")
def test_training_leaves_nothing_to_collect(name):
    step = training(name)
    step()
    gc.collect()
    for _ in range(20):
        step()
    assert gc.collect() == 0


def nodes_of(tensor):
    """Return every operation that a result was made by."""
    found, stack = {}, [tensor.node]
    while stack:
        node = stack.pop()
        if id(node) not in found:
            found[id(node)] = node
            stack.extend(edge for edge in node.edges if isinstance(edge, tg.autograd.Function))
    return list(found.values())


def forward():
    """Return a result of many kinds of operations and a leaf that it depends on."""
    x = tg.Tensor(np.linspace(0.1, 1, 12).reshape(3, 4), requires_grad=True)
    hidden = (x @ x.T).exp().log().softmax() + x[:, :3] * x.sum(axis=1, keepdims=True)
    hidden.retain_grad()
    hidden.register_hook(lambda g: g * 2)
    parts = tg.cat([hidden, tg.stack([hidden[0], hidden[1]])]).max(axis=1)
    return F.layer_norm(parts).gelu().mean(), x


@pytest.mark.usefixtures("no_collector")
class TestGraphs:
    def test_a_graph_whose_backward_is_never_called_dies_with_its_result(self):
        gc.collect()
        y, x = forward()
        watched = [weakref.ref(node) for node in nodes_of(y)] + [weakref.ref(x)]
        assert len(watched) > 10
        del x, y
        assert [ref() for ref in watched if ref() is not None] == []
        assert gc.collect() == 0

    def test_backward_frees_the_graph_although_the_result_lives(self):
        y, x = forward()
        y = y.reshape(1).exp()
        watched = [weakref.ref(node) for node in nodes_of(y) if node is not y.node]
        assert y.node.saved[0] is y.array
        y.backward()
        assert [ref() for ref in watched if ref() is not None] == []
        assert y.node.saved == ()
        assert x.grad is not None

    def test_grad_frees_the_graph_as_well(self):
        y, x = forward()
        watched = [weakref.ref(node) for node in nodes_of(y) if node is not y.node]
        tg.grad(y, x)
        assert [ref() for ref in watched if ref() is not None] == []

    def test_retain_graph_keeps_it(self):
        y, _ = forward()
        watched = [weakref.ref(node) for node in nodes_of(y)]
        y.backward(retain_graph=True)
        assert all(ref() is not None for ref in watched)

    def test_backward_frees_what_was_saved_as_it_goes(self):
        alive = []

        class Watch(tg.autograd.Function):
            def forward(self, x):
                return x.copy()

            def backward(self, grad):
                alive.append([ref() is not None for ref in watched])
                return grad

        x = tg.Tensor(np.ones(3), requires_grad=True)
        y = Watch.apply(x)
        last = (y * 2.0).exp().log()
        watched = [weakref.ref(node) for node in nodes_of(last) if type(node) is not Watch][1:]
        last.backward(np.ones(3))
        assert alive == [[False, False]]

    def test_results_under_no_grad_keep_nothing(self):
        x = tg.Tensor(np.ones(3), requires_grad=True)
        with tg.no_grad():
            y = x * 2
            reference = weakref.ref(y)
            z = y.exp()
            del y
        assert reference() is None
        assert z.node is None

    def test_inputs_that_no_gradient_needs_are_not_kept(self):
        x = tg.Tensor(np.ones(3), requires_grad=True)
        constant = tg.Tensor(np.ones(3))
        reference = weakref.ref(constant)
        y = x + constant
        del constant
        assert reference() is None
        assert y.requires_grad

    def test_an_error_in_backward_leaves_no_cycle(self):
        class Wrong(tg.autograd.Function):
            def forward(self, x):
                return x.copy()

            def backward(self, grad):
                return grad[:1]

        x = tg.Tensor(np.ones(3), requires_grad=True)
        y = Wrong.apply(x * 2.0).sum()
        reference = weakref.ref(y.node)
        with pytest.raises(RuntimeError, match="Wrong"):
            y.backward()
        del y
        assert reference() is None
