"""Options that PyTorch has, by their names there."""

import numpy as np
import pytest

import tinygrad_char as tg
from tinygrad_char import Tensor, nn, optim
from tinygrad_char import functional as F

X = Tensor(np.arange(24.0).reshape(2, 3, 4))
OPTIMIZERS = {
    "SGD": lambda p: optim.SGD(p, lr=0.1, momentum=0.9),
    "AdamW": lambda p: optim.AdamW(p, lr=0.1),
    "RMSprop": lambda p: optim.RMSprop(p, lr=0.1),
    "none": None,
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("owner", ["module", "optimizer", "tensors"])
def test_zero_grad_forgets_or_fills(name, owner, device):
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    model.to(device)
    parameters = list(model.parameters())
    make = OPTIMIZERS[name]
    if make is None and owner == "optimizer":
        owner = "module"
    optimizer = make and make(parameters)
    zero = {
        "module": model.zero_grad,
        "optimizer": optimizer and optimizer.zero_grad,
        "tensors": lambda **o: [each.zero_grad(**o) for each in parameters],
    }[owner]
    x = Tensor(np.ones((4, 3), np.float32), device=device)
    zero(set_to_none=False)
    assert all(each.grad is None for each in parameters)
    model(x).sum().backward()
    once = [each.grad.tolist() for each in parameters]
    zero(set_to_none=False)
    assert all(each.grad.tolist() == np.zeros(each.shape).tolist() for each in parameters)
    model(x).sum().backward()
    assert [each.grad.tolist() for each in parameters] == once
    for options in ({"set_to_none": True}, {}):
        model(x).sum().backward()
        zero(**options)
        assert all(each.grad is None for each in parameters)


def test_a_gradient_of_zeros_still_trains():
    """By weight decay here, as in PyTorch."""
    p = Tensor(np.ones(3, np.float32), requires_grad=True)
    optimizer = optim.AdamW([p], lr=0.1, weight_decay=0.5)
    p.sum().backward()
    optimizer.zero_grad(set_to_none=False)
    optimizer.step()
    np.testing.assert_allclose(p.detach().numpy(), 0.95, rtol=1e-6)


def test_variance_by_unbiased():
    for name in ("var", "std"):
        method, function = getattr(X, name), getattr(tg, name)
        for unbiased in (True, False):
            expected = method(1, correction=int(unbiased)).numpy()
            np.testing.assert_array_equal(method(1, unbiased=unbiased).numpy(), expected)
            np.testing.assert_array_equal(function(X, dim=1, unbiased=unbiased), expected)
        for other in ({"correction": 0}, {"ddof": 1}):
            with pytest.raises(TypeError, match=f"{name}: .* and .* are two names of one argument"):
                method(1, unbiased=True, **other)


@pytest.mark.parametrize("dtype", ["i1", "u1", "i8", "f4", "f8"])
def test_alpha_keeps_the_dtype_that_it_may(dtype, device):
    x = Tensor(np.array([10, 20], dtype), device=device)
    for result in (x.add(x, alpha=2), x.add(np.array([10, 20], dtype), alpha=2)):
        assert (result.tolist(), result.dtype) == ([30, 60], dtype)
    assert x.add(5, alpha=2).tolist() == tg.add(x, 5, alpha=2).tolist() == [20, 30]
    assert tg.sub(100, x, alpha=3).tolist() == [70, 40]
    assert x.sub(np.float64(1), alpha=2).tolist() == [8, 18]
    assert x.add(3, alpha=2).dtype == tg.sub(100, x, alpha=3).dtype == dtype
    half = x.add(x, alpha=0.5)
    assert half.tolist() == [15, 30]
    assert half.dtype == (dtype if dtype[0] == "f" else np.float32)


def test_an_alpha_that_is_no_number():
    for method in (X.add, X.sub):
        with pytest.raises(TypeError, match=r"alpha='2', expected a number"):
            method(X, alpha="2")


def test_rounded_quotients():
    a, b = Tensor([-7, 7, -8]), Tensor([2, -2, 2])
    assert a.div(b, rounding_mode="floor").tolist() == [-4, -4, -4]
    assert a.div(b, rounding_mode="trunc").tolist() == [-3, -3, -4]
    assert a.div(b, rounding_mode=None).tolist() == [-3.5, -3.5, -4]
    assert a.div(b, rounding_mode="trunc").dtype == np.int64
    assert tg.div(7, Tensor([2.0, -2.0]), rounding_mode="trunc").tolist() == [3, -3]
    with pytest.raises(ValueError, match="div: rounding_mode='round', expected None, 'floor' or"):
        a.div(b, rounding_mode="round")
    for mode in ("floor", "trunc"):
        with pytest.raises(ZeroDivisionError, match="a division by 0 of integers"):
            a.div(0, rounding_mode=mode)
        assert Tensor([1.0, -1.0]).div(0, rounding_mode=mode).tolist() == [np.inf, -np.inf]


def test_is_causal_counts_from_the_first_key(device):
    rng = np.random.default_rng(0)
    shapes = ((1, 2, 3, 4), (1, 2, 5, 4), (1, 2, 5, 4))
    q, k, v = (Tensor(rng.standard_normal(s).astype("f4"), device=device) for s in shapes)
    first = F.attention(q, k, v, is_causal=True).to("cpu").numpy()
    np.testing.assert_allclose(first[:, :, 0], v.to("cpu").numpy()[:, :, 0], rtol=1e-6)
    same = F.attention(q, k[:, :, :3], v[:, :, :3], causal=True).to("cpu").numpy()
    np.testing.assert_allclose(first, same, rtol=1e-5, atol=1e-6)
    with pytest.raises(TypeError, match="causal and is_causal count the queries from different"):
        F.attention(q, k, v, causal=True, is_causal=True)
