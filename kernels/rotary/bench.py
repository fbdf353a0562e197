"""Rotary positions of a model's queries and keys, measured and checked."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu.bench import Dimensions, InPlace, Task, Work
from tinygrad_char.kernels.cuda.bench import Check, OnDevice, Ragged, Timed
from tinygrad_char.kernels.rotary.reference import EPS, Options, angles


def cases(op: Any, at: Dimensions) -> dict[str, Task]:
    qkv, grad = at.operands(_shape(at), _shape(at))
    table = angles(at.length, at.channels // at.heads).astype(np.float32)
    options = Options(at.heads, table)
    work = InPlace(grad)

    def backward(grad: Array) -> Array:
        op.backward(grad, qkv, options)
        return grad

    return {
        "rotary forward": Task(lambda: op.forward(qkv, options)),
        "rotary backward": Task(lambda: backward(work.used()), lambda: backward(work.fresh())),
        "rotary normalized": Task(lambda: op.forward(qkv, options._replace(normalize=True))),
    }


def work(at: Dimensions) -> Work:
    return {
        "rotary forward": ("bytes", 4 * at.stream),
        "rotary backward": ("bytes", 4 * at.stream),
        "rotary normalized": ("bytes", 4 * at.stream),
    }


def torch_cases(torch: Any, at: Dimensions) -> dict[str, Task]:
    qkv, grad = at.tensors(torch, _shape(at), _shape(at))
    qkv.requires_grad_()
    size, values = at.channels // at.heads, grad[..., 2 * at.channels :]
    packed = (at.batch, at.length, 3, at.heads, size)
    cosines, sines = torch.from_numpy(angles(at.length, size)).float()[:, None, None].chunk(2, -1)
    part = grad.view(packed)[:, :, :2]

    def turn(normalize: bool) -> Any:
        x = qkv.view(packed)[:, :, :2]
        if normalize:
            x = torch.nn.functional.rms_norm(x, (size,), eps=EPS)
        first, second = x.chunk(2, -1)
        turned = (first * cosines - second * sines, first * sines + second * cosines)
        return torch.cat(turned, -1)

    def forward(normalize: bool = False) -> Any:
        with torch.no_grad():
            return turn(normalize)

    turned = turn(False)

    def backward() -> Any:
        return torch.autograd.grad(turned, qkv, part, retain_graph=True)[0]

    def whole() -> Any:
        return torch.cat([backward()[..., : 2 * at.channels], values], -1)

    return {
        "rotary forward": Task(forward),
        "rotary backward": Task(backward, whole),
        "rotary normalized": Task(lambda: forward(True)),
    }


def _shape(at: Dimensions) -> tuple[int, ...]:
    return (at.batch, at.length, 3 * at.channels)


def moving(op: Any, on: OnDevice) -> Iterator[Timed]:
    shape = on.sizes.training
    qkv = on.draw((shape.batch, shape.length, 3 * shape.heads * shape.size))
    table = on.backend.from_numpy(angles(shape.length, shape.size).astype(np.float32))
    options = Options(shape.heads, table)
    moved = 4 / 3 * qkv.nbytes
    yield Timed("rotary", lambda op: op.forward(qkv, options), moved)
    yield Timed("rotary backward", lambda op: op.backward(qkv, qkv, options), moved)


def checks(at: Ragged) -> Iterator[Check]:
    for length in at.lengths:
        arrays = {
            "qkv": at.draw(2, length, 3 * 3 * 10),
            "grad": at.draw(2, length, 3 * 3 * 10),
            "table_": angles(length, 10).astype(np.float32),
        }
        yield Check("rotary", f"(2, {length}, 90)", _check, arrays)


def _check(op: Any, i: Any) -> list[Array]:
    found = []
    for normalize in (False, True):
        grad, options = i.grad.copy(), Options(3, i.table_, normalize)
        found.append(op.forward(i.qkv, options))
        op.backward(grad, i.qkv, options)
        found.append(grad)
    return found
