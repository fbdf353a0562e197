"""Numbers of hundreds of digits, given as an option: an error that is short."""

import numpy as np
import pytest

import tinygrad_char as tg
from tinygrad_char import Tensor, nn, optim
from tinygrad_char import functional as F
from tinygrad_char.random import Generator, manual_seed

LONG = [10**400, -(10**400), 10**5000]


def parameter():
    return Tensor(np.ones((2, 3), np.float32), requires_grad=True)


X, I = parameter().detach(), Tensor(np.ones((2, 3), np.int64))  # noqa: E741
TAKERS = {
    "manual_seed": manual_seed,
    "Generator": Generator,
    "Dropout": nn.Dropout,
    "SGD lr": lambda n: optim.SGD([parameter()], lr=n),
    "AdamW lr": lambda n: optim.AdamW([parameter()], lr=n),
    "AdamW eps": lambda n: optim.AdamW([parameter()], lr=0.1, eps=n),
    "AdamW betas": lambda n: optim.AdamW([parameter()], lr=0.1, betas=(0.9, n)),
    "RMSprop weight_decay": lambda n: optim.RMSprop([parameter()], lr=0.1, weight_decay=n),
    "clip_grad_norm_": lambda n: optim.clip_grad_norm_([parameter()], n),
    "sum": X.sum,
    "softmax": X.softmax,
    "unsqueeze": X.unsqueeze,
    "reshape": X.reshape,
    "expand": lambda n: X.expand(n, 2, 3),
    "narrow": lambda n: X.narrow(0, n, 1),
    "topk": X.topk,
    "pad": lambda n: X.pad((-abs(n), 0)),
    "cross_entropy": lambda n: F.cross_entropy(X, Tensor([0, 1]), label_smoothing=n),
    "randint": tg.randint,
    "full": lambda n: tg.full((2,), n),
    "grad": lambda n: setattr(parameter(), "grad", n),
    **{f"I {name}": getattr(I, name) for name in ("__add__", "__mod__", "__and__", "fill_")},
    **{f"X {name}": getattr(X, name) for name in ("__add__", "__pow__")},
}


@pytest.mark.parametrize("number", LONG, ids=["400 digits", "negative", "5000 digits"])
@pytest.mark.parametrize("name", TAKERS)
def test_a_long_number_is_named_by_its_size(name, number):
    with pytest.raises((ValueError, OverflowError, IndexError)) as error:
        TAKERS[name](number)
    assert "0" * 50 not in str(error.value)
    assert "bits" in str(error.value)
    assert len(str(error.value)) < 300
